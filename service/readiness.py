"""The state of the service as a whole, for its health checks."""

from service.catalog import Catalog
from service.errors import NotServing, Reason
from service.metrics import Metrics
from service.slot import Slots
from service.version import State


class Readiness:
    """READY is a state of its own: that the process runs does not imply it."""

    def __init__(self, catalog: Catalog, slots: Slots, metrics: Metrics) -> None:
        self._catalog, self._slots = catalog, slots
        self.state: State = "STARTING"
        self.accepting = False
        """Still true in the lame-duck time, in which the service is DRAINING but serves."""
        metrics.ready.set_function(lambda: self.ready)

    @property
    def alive(self) -> bool:
        """False when only a restart of the process helps."""
        return not self._slots.why_not_alive

    @property
    def ready(self) -> bool:
        return self.state == "READY" and self._catalog.ready and self.alive

    def why_not_ready(self, *, named: bool = True) -> str:
        """The reason in one line; empty when ready. Products are named only if `named`."""
        if self.ready:
            return ""
        if not self.alive:
            return self._slots.why_not_alive
        if self.state != "READY":
            return f"the service is {self.state}"
        if not named:
            return "no product can be inspected"
        reasons = "; ".join(
            f"{version.product} version {version.number}: {version.reason or 'it is being loaded'}"
            for version in self._catalog.versions()
            if version.state in ("STARTING", "FAILED")
        )
        return f"no product can be inspected: {reasons or 'the models folder holds no PRODUCT/VERSION'}"

    def check_product(self, product: str) -> None:
        """Raises NotFound or NotServing unless `product` can be inspected."""
        self._catalog.lane(product)

    def start(self) -> None:
        self.state, self.accepting = "READY", True

    def drain(self) -> None:
        self.state = "DRAINING"

    def close(self) -> None:
        self.state, self.accepting = "DRAINING", False

    def check(self) -> None:
        """Raises NotServing while nothing is accepted."""
        if not self.accepting:
            reason: Reason = "starting" if self.state == "STARTING" else "draining"
            raise NotServing(f"the service is {self.state}", reason=reason, retry_after=1)
