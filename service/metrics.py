"""All Prometheus series, on their own registry. Latencies are in seconds, with a bucket edge at the takt."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

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
from prometheus_client.metrics_core import GaugeMetricFamily

from export.bundle import BATCH_SIZES, Verdict, program_version
from service.errors import Outcome, Reason
from service.values import STAGES, Door, Result
from service.version import State, Version

CONTENT_TYPE = CONTENT_TYPE_LATEST

Archived = Literal["kept", "dropped", "failed"]
"""What became of a picture for the archive: "dropped" where too many waited to be written."""
_EDGES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_SCORES = tuple(i / 20 for i in range(1, 21))


class Metrics:
    """One attribute per series, but for those of `collect`. Thread-safe."""

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
        self.archived = counter("archived", "Pictures for the archive", "product", "outcome")
        self.request_seconds = histogram("request_seconds", "Arrival to answer", edges, "product", "door")
        self.stage_seconds = histogram(
            "stage_seconds", "Time of a frame per stage", edges, "product", "stage"
        )
        self.engine_busy_seconds = counter(
            "engine_busy_seconds", "Time the engine was busy with a product's batches", "product"
        )
        self.batch_size = histogram("batch_size", "Frames per batch", BATCH_SIZES, "product")
        self.score = histogram("score", "Scores; 0.5 is the threshold", _SCORES, "product")
        self.takt_seconds = gauge("takt_seconds", "The line's budget per frame, as set")
        self.takt_seconds.set(takt_seconds)
        self.build_info = gauge("build_info", "1; the program's version as a label", "version")
        self.build_info.labels(program_version()).set(1)
        self.ready = gauge("ready", "1 while the service is ready")
        self.certificate_expiry_seconds = gauge(
            "certificate_expiry_seconds", "Seconds until the certificate in use expires; infinite without one"
        )
        self.certificate_expiry_seconds.set(float("inf"))
        self.versions: Callable[[], Iterable[Version]] = list
        """The known versions; called from any thread."""
        registry.register(self)

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

    def begin_at_zero(self, product: str) -> None:
        """Creates what alerts, panels and autoscalers use at 0: the rate of a series that appears at 1
        misses it."""
        for door in get_args(Door):
            self.request_seconds.labels(product, door)
            for outcome in get_args(Outcome):
                self.requests.labels(product, door, outcome)
        for archived in get_args(Archived):
            self.archived.labels(product, archived)
        for verdict in get_args(Verdict):
            self.verdicts.labels(product, verdict)
        for reason in get_args(Reason):
            self.rejected.labels(product, reason)
        for stage in STAGES:
            self.stage_seconds.labels(product, stage)
        for counter in (self.late, self.deadline_missed, self.engine_busy_seconds):
            counter.labels(product)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of the known versions, made when they are asked for."""
        versions = list(self.versions())
        lanes = [lane for version in reversed(versions) if (lane := version.lane)]  # the newest last
        queued = {(version.product,): 0 for version in versions}
        for lane in lanes:
            queued[(lane.product,)] += lane.pending
        yield _gauge("queue_depth", "Frames accepted and not yet answered", ["product"], queued.items())
        # Of versions with the same number, one that serves and one that is loaded, each state has its 1.
        states = {(v.product, str(v.number), state): 0 for v in versions for state in get_args(State)}
        states |= {(v.product, str(v.number), v.state): 1 for v in versions}
        labels = ["product", "version", "state"]
        yield _gauge("product_state", "1 for the state a version is in", labels, states.items())
        deviations = {(lane.product, lane.engine): lane.predictor.deviation for lane in lanes}
        labels = ["product", "engine"]
        yield _gauge(
            "parity_deviation", "Largest golden score deviation seen at load", labels, deviations.items()
        )
        bundles = {(lane.product, str(lane.version), lane.engine, lane.digest): 1 for lane in lanes}
        labels = ["product", "version", "engine", "digest"]
        yield _gauge("bundle_info", "1 for each loaded bundle", labels, bundles.items())

    def text(self) -> bytes:
        """The series in Prometheus' text format."""
        return generate_latest(self.registry)


def _gauge(
    name: str, help_: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"drd_{name}", help_, labels=labels)
    for of, value in samples:
        family.add_metric(of, value)
    return family
