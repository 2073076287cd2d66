"""Where the graph may be cut: the values between its three parts, by the names they have in `model.onnx`.

FRAMES ── teacher ──▶ TEACHER ── fusion, embedding, student ──▶ STUDENT ── distances … score ──▶ ANSWER
                         └─────────────────────────────────────────────────▲

Reduced precision belongs in the convolutions only, and these are where they end.
"""

TEACHER = ("teacher_features_0", "teacher_features_1", "teacher_features_2")
"""The teacher's features, float32 [N, C, H/s, W/s], finest first."""
STUDENT = ("student_features_0", "student_features_1", "student_features_2")
"""What the student makes of them, shaped alike. A level that it does not restore is not there."""
FRAMES = ("frames",)
ANSWER = ("heatmap", "score")
