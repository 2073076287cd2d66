"""Names in `model.onnx` of the tensors between its three parts, where it can be cut.

FRAMES ── teacher ──▶ TEACHER ── fusion, embedding, student ──▶ STUDENT ── distances … score ──▶ OUTPUTS
                         └─────────────────────────────────────────────────▲

Lower precision is used in the convolutions only, and they end at these tensors.
"""

TEACHER = ("teacher_features_0", "teacher_features_1", "teacher_features_2")
"""The teacher's features, float32 `[N, C, H/s, W/s]`, finest first."""
STUDENT = ("student_features_0", "student_features_1", "student_features_2")
"""The student's restored features, of the same shapes. A level that it does not restore is absent."""
FRAMES = "frames"
"""The input, uint8 `[N, H, W, 3]`."""
OUTPUTS = ("heatmap", "score")
"""The outputs, float32 `[N, H, W]` and `[N]`."""
