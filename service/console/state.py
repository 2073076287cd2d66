"""The state of service and products for the operator page: small, sent again only when it changes."""

from typing import Any

from service.access.tokens import Grant
from service.history import History
from service.inspector import Inspector
from service.lane import Lane
from service.product import Product


def state_of(inspector: Inspector, history: History, grant: Grant) -> dict[str, Any]:
    """Whether the service is ready, and every product's newest and serving version."""
    products = inspector.catalog.products()
    return {
        "history": history.id,
        "ready": inspector.readiness.ready,
        "reason": inspector.readiness.why_not_ready(named=grant.products is None),
        "products": [_product(product) for product in products if grant.covers(product.name)],
    }


def _product(product: Product) -> dict[str, Any]:
    newest, serving = product.newest_first[0], product.serving
    return {
        "name": product.name,
        "serving": serving and serving.lane and _serving(serving.lane),
        "state": newest.state,
        "reason": newest.reason,
        "version": newest.number,
    }


def _serving(lane: Lane) -> dict[str, Any]:
    thresholds = lane.manifest.thresholds
    return {
        "version": lane.version,
        "engine": lane.engine,
        "guard_band": lane.predictor.guard_band,
        "raw_threshold": thresholds.image.threshold,
        "raw_median": thresholds.image.median,
        "max_false_reject": thresholds.max_false_reject,
        "calibration_size": thresholds.calibration_size,
    }
