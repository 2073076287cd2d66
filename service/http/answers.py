"""The HTTP door's answers as documented in OpenAPI, and the conversion of an inspection to them."""

from base64 import b64encode
from typing import Any, Literal

from pydantic import BaseModel, Field

from export.bundle import THRESHOLD, Verdict
from service.catalog import Catalog
from service.values import Inspection, PngPicture, region_facts
from service.version import State


class Size(BaseModel):
    width: int
    height: int


class Image(Size):
    """The sent image, upright."""

    sha256: str


class Region(Size):
    """A connected area over the pixel threshold, in the sent image's pixels; `peak` is on the score scale."""

    x: int
    y: int
    area: int
    peak: float


class Picture(Size):
    encoding: Literal["png"] = "png"
    data: str = Field(description="base64")


class Timings(BaseModel):
    decode: float
    queue: float
    infer: float
    post: float
    encode: float
    total: float


class Answer(BaseModel):
    """A verdict. `score` 0.5 is the reject threshold; parts that `include` does not name are left out."""

    request_id: str
    frame_id: str
    product: str
    version: int
    bundle_digest: str
    engine: str
    verdict: Verdict
    reason: str = Field(description="why, if not by the score alone", examples=["small_region"])
    unfamiliar: list[str] = Field(
        description="frame statistics outside calibration's range, if unlike_training",
        examples=[["brightness"]],
    )
    score: float = Field(ge=0, le=1)
    threshold: float
    raw_score: float
    raw_threshold: float
    image: Image
    regions: list[Region] | None = None
    heatmap: Picture | None = None
    mask: Picture | None = None
    overlay: Picture | None = None
    timings_ms: Timings
    batch_size: int


class Version(BaseModel):
    """One version of a product, in any state."""

    version: int
    state: State
    reason: str = Field(description="why it is FAILED")
    engine: str | None
    skipped: dict[str, str] = Field(description="engines preferred by the bundle but not used here, and why")
    bundle_digest: str | None


class Product(BaseModel):
    name: str
    state: State
    version: int | None = Field(description="the version that serves")
    versions: list[Version]


class Products(BaseModel):
    products: list[Product]


class Health(BaseModel):
    status: str


def answer_of(inspection: Inspection, request_id: str, frame_id: str) -> dict[str, Any]:
    """An `Answer` as a plain dictionary, for speed; a test compares it with the model."""
    finding, image = inspection.finding, inspection.image
    answer = {
        "request_id": request_id,
        "frame_id": frame_id,
        "product": inspection.product,
        "version": inspection.version,
        "bundle_digest": inspection.bundle_digest,
        "engine": inspection.engine,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "unfamiliar": finding.unfamiliar,
        "score": finding.score,
        "threshold": THRESHOLD,
        "raw_score": finding.raw_score,
        "raw_threshold": inspection.raw_threshold,
        "image": {"width": image.width, "height": image.height, "sha256": image.sha256},
        "timings_ms": inspection.timings.milliseconds(),
        "batch_size": inspection.batch_size,
    }
    if "regions" in inspection.parts:
        answer["regions"] = [region_facts(region) for region in finding.regions]
    return answer | {part: _picture(png) for part, png in inspection.pictures.items()}


def products_of(catalog: Catalog, product: str | None = None) -> list[Product]:
    """All products or one; NotLoaded for an unknown product."""
    by_name = dict[str, list[Version]]()
    for version in catalog.versions(product):
        lane = version.lane
        by_name.setdefault(version.product, []).append(
            Version(
                version=version.number,
                state=version.state,
                reason=version.reason,
                engine=lane and lane.predictor.engine_id,
                skipped=dict(lane.predictor.skipped) if lane else {},
                bundle_digest=lane and lane.digest,
            )
        )
    return [_product(name, versions) for name, versions in by_name.items()]


def _product(name: str, versions: list[Version]) -> Product:
    serving = next((version.version for version in versions if version.state == "READY"), None)
    state = versions[0].state if serving is None else "READY"
    return Product(name=name, state=state, version=serving, versions=versions)


def _picture(picture: PngPicture) -> dict[str, Any]:
    data = b64encode(picture.png).decode()
    return {"encoding": "png", "width": picture.width, "height": picture.height, "data": data}
