"""The state of service and products for the operator page: small, sent again only when it changes."""

from typing import Any

from service.access.tokens import Grant
from service.history import History
from service.inspector import Inspector
from service.life import Life
from service.version import Version


def state_of(inspector: Inspector, history: History, grant: Grant) -> dict[str, Any]:
    """Whether the service is ready, and every product's newest and serving version."""
    products = dict[str, dict[str, Any]]()
    for version in inspector.catalog.versions():
        if grant.covers(version.product):
            _show(products.setdefault(version.product, {"name": version.product, "serving": None}), version)
    return {
        "history": history.id,
        "ready": inspector.life.ready,
        "reason": why_not_ready(inspector.life, grant),
        "products": list(products.values()),
    }


def why_not_ready(life: Life, grant: Grant) -> str:
    """The reason in one line; empty when ready. Names no product unless `grant` covers all."""
    if grant.products is None:
        return life.why_not_ready
    if life.ready:
        return ""
    return "no product can be inspected" if life.state == "READY" else f"the service is {life.state}"


def _show(product: dict[str, Any], version: Version) -> None:
    """Call with the newest version first: its state is shown if no version serves."""
    product.setdefault("state", version.state)
    product.setdefault("reason", version.reason)
    product.setdefault("version", version.number)
    if version.state == "READY" and version.lane is not None:
        thresholds = version.lane.manifest.thresholds
        product["serving"] = {
            "version": version.number,
            "engine": version.lane.predictor.engine_id,
            "guard_band": version.lane.predictor.guard_band,
            "raw_threshold": thresholds.image.threshold,
            "raw_median": thresholds.image.median,
            "max_false_reject": thresholds.max_false_reject,
            "calibration_size": thresholds.calibration_size,
        }
