"""Converts values of the service to gRPC messages, and errors to status codes: the one table of these."""

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from export.bundle import THRESHOLD
from service import errors
from service.rpc.pb import inspection_pb2 as pb
from service.values import Inspection, PngPicture, region_facts
from service.version import Version

CODE: dict[type[errors.ServiceError], StatusCode] = {
    errors.BadImage: StatusCode.INVALID_ARGUMENT,
    errors.UnlikeDeclared: StatusCode.INVALID_ARGUMENT,
    errors.BadParameter: StatusCode.INVALID_ARGUMENT,
    errors.NotFound: StatusCode.NOT_FOUND,
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
    result, finding, pictures = inspection.result, inspection.result.finding, inspection.pictures
    response = pb.InspectResponse(
        request_id=request_id,
        frame_id=frame_id,
        product=result.product,
        version=result.version,
        bundle_digest=result.bundle_digest,
        engine=result.engine,
        verdict=finding.verdict,
        reason=finding.reason,
        unfamiliar=finding.unfamiliar,
        score=finding.score,
        threshold=THRESHOLD,
        raw_score=finding.raw_score,
        raw_threshold=result.raw_threshold,
        image=pb.Image(width=result.size.width, height=result.size.height, sha256=result.sha256),
        timings_ms=pb.Timings(**result.timings.milliseconds()),
        batch_size=result.batch_size,
        heatmap=_picture(pictures.get("heatmap")),
        mask=_picture(pictures.get("mask")),
        overlay=_picture(pictures.get("overlay")),
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


def _picture(picture: PngPicture | None) -> pb.Picture | None:
    if picture is None:
        return None
    size = picture.size
    return pb.Picture(encoding="png", width=size.width, height=size.height, data=picture.png)
