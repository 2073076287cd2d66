"""The HTTP door's answers as documented in OpenAPI, and the conversion of an inspection to them."""

from base64 import b64encode
from typing import Any, Literal

from pydantic import BaseModel, Field

from export.bundle import Verdict
from service.product import Product as KnownProduct
from service.values import Inspection, PngPicture
from service.version import State
from service.version import Version as KnownVersion


class _Sized(BaseModel):
    width: int
    height: int


class Image(_Sized):
    """The sent image, upright."""

    sha256: str


class Region(_Sized):
    """A connected area over the pixel threshold, in the sent image's pixels; `peak` is on the score scale."""

    x: int
    y: int
    area: int
    peak: float


class Picture(_Sized):
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
    verdict: Verdict = Field(description="only OK lets a part through")
    reason: str = Field(
        description="of a REVIEW: guard_band, small_region or unlike_training; else empty",
        examples=["small_region"],
    )
    unfamiliar: list[str] = Field(
        description="frame statistics outside calibration's range, if unlike_training",
        examples=[["brightness"]],
    )
    score: float = Field(ge=0, le=1)
    threshold: float
    raw_score: float = Field(description="the network's own, on no common scale")
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
    facts = inspection.facts(request_id, frame_id)
    return facts | {part: _picture(picture) for part, picture in inspection.pictures.items()}


def product_of(product: KnownProduct) -> Product:
    serving = product.serving
    return Product(
        name=product.name,
        state=product.state,
        version=serving and serving.number,
        versions=[_version(each) for each in product.newest_first],
    )


def _version(known: KnownVersion) -> Version:
    return Version(
        version=known.number,
        state=known.state,
        reason=known.reason,
        engine=known.engine,
        skipped=dict(known.skipped),
        bundle_digest=known.digest,
    )


def _picture(picture: PngPicture) -> dict[str, Any]:
    data = b64encode(picture.png).decode()
    return {"encoding": "png", "width": picture.size.width, "height": picture.size.height, "data": data}
