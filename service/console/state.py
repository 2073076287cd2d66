"""What the page shows of service and products: small, and sent again only when it has changed."""

from typing import Any

from service.catalog import Version
from service.console.history import History, Sees
from service.inspector import Inspector


def state_of(inspector: Inspector, history: History, sees: Sees) -> dict[str, Any]:
    """Whether the service is ready, and every product's newest and serving version."""
    products = dict[str, dict[str, Any]]()
    for version in inspector.catalog.versions():
        if sees(version.product):
            _show(products.setdefault(version.product, {"name": version.product, "serving": None}), version)
    return {
        "history": history.id,
        "ready": inspector.life.ready,
        "reason": inspector.life.why_not_ready,
        "products": list(products.values()),
    }


def _show(product: dict[str, Any], version: Version) -> None:
    """Versions come newest first: the first is the one whose state is of interest, should none serve."""
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
