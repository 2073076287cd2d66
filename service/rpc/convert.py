"""Converts values of the service to gRPC messages, and errors to status codes: the one table of these."""

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from service import errors
from service.rpc.pb import inspection_pb2 as pb
from service.values import Inspection, PngPicture
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
        delay.FromMilliseconds(_retry_milliseconds(error))
        detail = Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(detail)
    return status


def trailing_of(error: errors.ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata of a call that ends with the error: its details and, for a refusal, what clients with a
    retry policy of gRPC's own obey."""
    details = ("grpc-status-details-bin", status_of(error).SerializeToString())
    if isinstance(error, errors.Refused):
        return details, ("grpc-retry-pushback-ms", str(_retry_milliseconds(error)))
    return (details,)


def _retry_milliseconds(error: errors.Refused) -> int:
    return max(1, round(1000 * error.retry_after))


def response_of(inspection: Inspection, request_id: str, frame_id: str) -> pb.InspectResponse:
    facts = inspection.facts(request_id, frame_id)
    facts |= {part: _picture(picture) for part, picture in inspection.pictures.items()}
    return pb.InspectResponse(**facts)


def product_of(version: Version) -> pb.Product:
    return pb.Product(
        name=version.product,
        version=version.number,
        state=version.state,
        reason=version.reason,
        engine=version.engine or "",
        bundle_digest=version.digest or "",
        skipped=version.skipped,
    )


def _picture(picture: PngPicture) -> pb.Picture:
    size = picture.size
    return pb.Picture(encoding="png", width=size.width, height=size.height, data=picture.png)
