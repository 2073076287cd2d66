"""Records of verdicts, as the history keeps them."""

from export.bundle import Finding, Size, Verdict
from service.record import Record
from service.values import Result, SentImage, Timings


def record(size: int = 100, product: str = "tile", verdict: Verdict = "OK") -> Record:
    """A record whose image has `size` bytes."""
    finding = Finding(verdict, "", unfamiliar=(), score=0.1, raw_score=0.1, small=False, regions=())
    result = Result(
        product=product,
        version=1,
        bundle_digest="",
        engine="onnx-f32",
        finding=finding,
        raw_threshold=0.5,
        guard_band=0.0,
        size=Size(1, 1),
        sha256="",
        timings=Timings(),
        batch_size=1,
    )
    image = SentImage(bytes(size), result.size, heatmap=b"")
    return Record(request_id="", frame_id="", door="http", result=result, image=image)
