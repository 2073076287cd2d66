"""Converts values of the service to gRPC messages, and errors to status codes: the one table of these."""

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from export.bundle import THRESHOLD
from service import errors
from service.rpc.pb import inspection_pb2 as pb
from service.values import Inspection, Part, region_facts
from service.version import Version

CODE: dict[type[errors.ServiceError], StatusCode] = {
    errors.UnreadableImage: StatusCode.INVALID_ARGUMENT,
    errors.UnlikeDeclared: StatusCode.INVALID_ARGUMENT,
    errors.BadParameter: StatusCode.INVALID_ARGUMENT,
    errors.NotLoaded: StatusCode.NOT_FOUND,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.Forbidden: StatusCode.PERMISSION_DENIED,
    errors.TooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.Busy: StatusCode.RESOURCE_EXHAUSTED,
    errors.NotServing: StatusCode.UNAVAILABLE,
    errors.DeadlinePassed: StatusCode.DEADLINE_EXCEEDED,
    errors.InspectionFailed: StatusCode.INTERNAL,
}


def status_of(error: errors.ServiceError) -> status_pb2.Status:
    """The error as google.rpc.Status; a refusal carries RetryInfo: when to try again."""
    number: int = CODE[type(error)].value[0]
    status = status_pb2.Status(code=number, message=str(error))
    if isinstance(error, errors.Refused):
        delay = Duration()
        delay.FromMilliseconds(max(1, round(1000 * error.retry_after)))
        detail = Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(detail)
    return status


def response_of(inspection: Inspection, request_id: str, frame_id: str) -> pb.InspectResponse:
    finding, image = inspection.finding, inspection.image
    response = pb.InspectResponse(
        request_id=request_id,
        frame_id=frame_id,
        product=inspection.product,
        version=inspection.version,
        bundle_digest=inspection.bundle_digest,
        engine=inspection.engine,
        verdict=finding.verdict,
        reason=finding.reason,
        unfamiliar=finding.unfamiliar,
        score=finding.score,
        threshold=THRESHOLD,
        raw_score=finding.raw_score,
        raw_threshold=inspection.raw_threshold,
        image=pb.Image(width=image.width, height=image.height, sha256=image.sha256),
        timings_ms=pb.Timings(**inspection.timings.milliseconds()),
        batch_size=inspection.batch_size,
        heatmap=_picture(inspection, "heatmap"),
        mask=_picture(inspection, "mask"),
        overlay=_picture(inspection, "overlay"),
    )
    if "regions" in inspection.parts:
        response.regions.extend(pb.Region(**region_facts(region)) for region in finding.regions)
    return response


def product_of(version: Version) -> pb.Product:
    lane = version.lane
    return pb.Product(
        name=version.product,
        version=version.number,
        state=version.state,
        reason=version.reason,
        engine=lane.predictor.engine_id if lane else "",
        bundle_digest=lane.digest if lane else "",
        skipped=lane.predictor.skipped if lane else {},
    )


def _picture(inspection: Inspection, part: Part) -> pb.Picture | None:
    picture = inspection.pictures.get(part)
    if picture is None:
        return None
    return pb.Picture(encoding="png", width=picture.width, height=picture.height, data=picture.png)
