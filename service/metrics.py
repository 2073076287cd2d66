"""All Prometheus series, on their own registry. Latencies are in seconds, with a bucket edge at the takt."""

from collections.abc import Iterable
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from export.bundle import BATCH_SIZES, Verdict, program_version
from service.errors import Outcome, Reason
from service.lane import Lane
from service.values import STAGES, Door, Result
from service.version import State, Version

CONTENT_TYPE = CONTENT_TYPE_LATEST

_EDGES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_SCORES = tuple(i / 20 for i in range(1, 21))


class Metrics:
    """One attribute per series. Thread-safe."""

    def __init__(self, *, takt_seconds: float) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series nobody uses
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._takt_seconds = takt_seconds
        edges = sorted({*_EDGES, takt_seconds})

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(name, help_, labels, namespace="drd", registry=registry)

        def gauge(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(name, help_, labels, namespace="drd", registry=registry)

        def histogram(
            name: str, help_: str, edges: list[float] | tuple[float, ...], *labels: str
        ) -> Histogram:
            return Histogram(name, help_, labels, namespace="drd", registry=registry, buckets=edges)

        self.requests = counter("requests", "Requests by how they ended", "product", "door", "outcome")
        self.verdicts = counter("verdicts", "Verdicts given", "product", "verdict")
        self.reviews = counter("reviews", "REVIEW verdicts by their reason", "product", "reason")
        # Also in the histograms, but alert rules would need to know the edge at the takt.
        self.late = counter("late", "Verdicts that took longer than the takt", "product")
        self.rejected = counter("rejected", "Requests refused at the door, by reason", "product", "reason")
        self.denied = counter("denied", "Callers without a valid token or the right to ask", "door", "reason")
        self.deadline_missed = counter("deadline_missed", "Frames whose deadline passed", "product")
        self.request_seconds = histogram("request_seconds", "Arrival to answer", edges, "product", "door")
        self.stage_seconds = histogram(
            "stage_seconds", "Time of a frame per stage", edges, "product", "stage"
        )
        self.engine_busy_seconds = counter(
            "engine_busy_seconds", "Time the engine was busy with a product's batches", "product"
        )
        self.batch_size = histogram("batch_size", "Frames per batch", BATCH_SIZES, "product")
        self.score = histogram("score", "Scores; 0.5 is the threshold", _SCORES, "product")
        self.queue_depth = gauge("queue_depth", "Frames accepted and not yet answered", "product")
        self.product_state = gauge(
            "product_state", "1 for the state a version is in", "product", "version", "state"
        )
        self.parity_deviation = gauge(
            "parity_deviation", "Largest golden score deviation seen at load", "product", "engine"
        )
        self.bundle_info = gauge(
            "bundle_info", "1 for each loaded bundle", "product", "version", "engine", "digest"
        )
        self.takt_seconds = gauge("takt_seconds", "The line's budget per frame, as set")
        self.takt_seconds.set(takt_seconds)
        self.build_info = gauge("build_info", "1; the program's version as a label", "version")
        self.build_info.labels(program_version()).set(1)
        self.ready = gauge("ready", "1 while the service is ready")
        self.certificate_expiry_seconds = gauge(
            "certificate_expiry_seconds", "Seconds until the certificate in use expires; infinite without one"
        )
        self.certificate_expiry_seconds.set(float("inf"))

    def ended(self, product: str, door: Door, outcome: Outcome) -> None:
        """Counts a request by its outcome."""
        self.requests.labels(product, door, outcome).inc()
        if outcome == "expired":
            self.deadline_missed.labels(product).inc()

    def answered(self, door: Door, result: Result) -> None:
        """Records a request that got its verdict."""
        product, finding, timings = result.product, result.finding, result.timings
        self.verdicts.labels(product, finding.verdict).inc()
        if finding.verdict == "REVIEW":
            self.reviews.labels(product, finding.reason).inc()
        if timings.total > self._takt_seconds:
            self.late.labels(product).inc()
        self.score.labels(product).observe(finding.score)
        self.request_seconds.labels(product, door).observe(timings.total)
        for stage in STAGES:
            self.stage_seconds.labels(product, stage).observe(getattr(timings, stage))

    def show(self, product: str, versions: Iterable[Version]) -> None:
        """Sets the gauges of `product` from its versions."""
        self._begin_at_zero(product)
        self._forget_versions(product)
        lanes = list[Lane]()
        for version in versions:
            number, lane = str(version.number), version.lane
            for state in get_args(State):
                # 0, unless another version of this number is in that state.
                self.product_state.labels(product, number, state)
            self.product_state.labels(product, number, version.state).set(1)
            if lane is not None:
                lanes.append(lane)
                self.bundle_info.labels(product, number, lane.engine, lane.digest).set(1)
                self.parity_deviation.labels(product, lane.engine).set(lane.predictor.deviation)
        self.queue_depth.labels(product).set_function(lambda: sum(lane.pending for lane in lanes))

    def forget(self, product: str) -> None:
        """Removes the gauges of a removed product; counters stay, as rates need them."""
        self._forget_versions(product)
        self.queue_depth.remove(product)

    def _begin_at_zero(self, product: str) -> None:
        """Creates what alerts, panels and autoscalers use at 0: the rate of a series that appears at 1
        misses it."""
        for door in get_args(Door):
            self.request_seconds.labels(product, door)
            for outcome in get_args(Outcome):
                self.requests.labels(product, door, outcome)
        for verdict in get_args(Verdict):
            self.verdicts.labels(product, verdict)
        for reason in get_args(Reason):
            self.rejected.labels(product, reason)
        for stage in STAGES:
            self.stage_seconds.labels(product, stage)
        for counter in (self.late, self.deadline_missed, self.engine_busy_seconds):
            counter.labels(product)

    def _forget_versions(self, product: str) -> None:
        for gauge in (self.product_state, self.bundle_info, self.parity_deviation):
            gauge.remove_by_labels({"product": product})

    def text(self) -> bytes:
        """The series in Prometheus' text format."""
        return generate_latest(self.registry)
