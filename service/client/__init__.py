"""A client of the inspection service, over REST or gRPC; needs the extra `client` and nothing of the server.

    from service.client import Client, ClientError, Frame

    with Client("grpc://127.0.0.1:8081") as drd:       # or http://127.0.0.1:8080; token=, ca=, deadline=
        try:
            answer = drd.inspect(Frame(picture, "elpv-mono", frame_id="4711", deadline=0.2))
            print(answer.verdict, answer.score, answer.regions)
        except ClientError as error:                   # refused, late, unreachable …: not inspected
            print("not inspected:", error)

`AsyncClient` is the same with `await`; `stream` sends any number of frames and yields the outcome of each.
"""

from service.client.address import Address
from service.client.aio import AsyncClient, Options
from service.client.errors import (
    AccessDenied,
    BadInput,
    ClientError,
    ConnectionLost,
    DeadlinePassed,
    InspectionFailed,
    NotLoaded,
    NotServing,
    Refused,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
)
from service.client.sync import Client
from service.client.values import Answer, Frame, Outcome, Part, Picture, Product, Region, Timings, Verdict

__all__ = [
    "AccessDenied",
    "Address",
    "Answer",
    "AsyncClient",
    "BadInput",
    "Client",
    "ClientError",
    "ConnectionLost",
    "DeadlinePassed",
    "Frame",
    "InspectionFailed",
    "NotLoaded",
    "NotServing",
    "Options",
    "Outcome",
    "Part",
    "Picture",
    "Product",
    "Refused",
    "Region",
    "Timings",
    "TooLarge",
    "UnexpectedAnswer",
    "Unreachable",
    "Verdict",
]
