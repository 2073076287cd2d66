"""gRPC as nobody should speak it: messages, frames and calls that mean nothing."""

import random
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from service.rpc.pb import inspection_pb2 as pb
from tests.bundles import make_bundle
from tests.e2e.serving import Process, process, wait_until
from tests.hostile.images import good_pictures
from tests.hostile.watching import taken
from tests.service.images import plain

pytestmark = pytest.mark.system

METHODS = ("Inspect", "InspectStream", "ListProducts")
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    with process("--models", models) as running:
        yield running


def call(channel: Any, method: str, *messages: bytes) -> tuple[grpc.StatusCode, list[bytes]]:
    """The raw answers, and how it ended."""
    path = f"/drd.inspection.v1.InspectionService/{method}"
    answers = list[bytes]()
    try:
        if method == "InspectStream":
            answers += channel.stream_stream(path)(iter(messages), timeout=60)
        else:
            answers.append(channel.unary_unary(path)(messages[0], timeout=60))
    except grpc.RpcError as error:
        return error.code(), answers
    return grpc.StatusCode.OK, answers


def good(channel: grpc.Channel) -> bool:
    message = pb.InspectRequest(image=plain(200), product="tile").SerializeToString()
    code, answers = call(channel, "Inspect", message)
    return code is grpc.StatusCode.OK and pb.InspectResponse.FromString(answers[0]).verdict == "NG"


def test_raw_messages_are_answered_as_the_callers_fault(service: Process) -> None:
    codes = Counter[grpc.StatusCode]()
    with grpc.insecure_channel(service.target) as channel:
        for message in messages(random.Random(3)):
            for method in METHODS:
                codes[call(channel, method, message)[0]] += 1
        assert good(channel)

    assert set(codes) <= EXPECTED, codes
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > 500
    assert not [line for line in service.log() if line["level"] == "error"]


def messages(chance: random.Random) -> Iterator[bytes]:
    """Good messages with anything changed, and noise."""
    for body in good_pictures().values():
        whole = pb.InspectRequest(
            image=body, product="tile", frame_id="7", include=["mask"]
        ).SerializeToString()
        for number in range(30):
            mutated = bytearray(whole if number % 2 else whole[: chance.randrange(1, len(whole))])
            for _ in range(chance.randrange(1, 6)):
                place = chance.choice((chance.randrange(len(mutated)), chance.randrange(8), -3))
                mutated[place % len(mutated)] = chance.randrange(256)
            yield bytes(mutated)
    for size in (0, 1, 2, 10, 1000):
        yield from (chance.randbytes(size) for _ in range(20))


def test_a_malformed_message_does_not_end_its_stream(service: Process) -> None:
    frames = [
        pb.InspectRequest(image=plain(level), product="tile", frame_id=str(level)).SerializeToString()
        for level in range(1, 31)
    ]
    frames[10], frames[20] = b"\xff\xff", b"\x12\x02\xff\xfe"
    with grpc.insecure_channel(service.target) as channel:
        code, answers = call(channel, "InspectStream", *frames)

    responses = [pb.InspectStreamResponse.FromString(answer) for answer in answers]
    assert code is grpc.StatusCode.OK
    assert len(responses) == 30
    malformed = [response for response in responses if response.WhichOneof("outcome") == "error"]
    assert [response.error.code for response in malformed] == [grpc.StatusCode.INVALID_ARGUMENT.value[0]] * 2
    for response in responses:
        if response not in malformed:
            assert round(255 * response.result.raw_score) == int(response.frame_id)


def test_what_unpacks_to_more_than_may_be_sent_is_refused(service: Process) -> None:
    before = taken(service.popen.pid)
    options = (("grpc.max_send_message_length", -1),)
    message = pb.InspectRequest(image=bytes(300 * MEBIBYTE), product="tile").SerializeToString()
    with grpc.insecure_channel(service.target, options, grpc.Compression.Gzip) as channel:
        code, _ = call(channel, "Inspect", message)
        assert good(channel)

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert taken(service.popen.pid).resident < before.resident + 200 * MEBIBYTE


def test_frames_that_are_no_http2_end_their_connection_only(service: Process) -> None:
    chance = random.Random(4)
    host, _, port = service.target.rpartition(":")
    files = taken(service.popen.pid).files
    with grpc.insecure_channel(service.target) as channel:
        for number in range(300):
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall((PREFACE if number % 2 else b"") + _frames(chance))
        assert good(channel)
    assert service.popen.poll() is None
    wait_until(lambda: taken(service.popen.pid).files <= files + 10)


def _frames(chance: random.Random) -> bytes:
    """HTTP/2 frames with any type, flags, stream and contents, some of another length than they say."""
    made = b""
    for _ in range(chance.randrange(1, 20)):
        contents = chance.randbytes(chance.choice((0, 4, 8, 20, 200)))
        said = chance.choice((len(contents), len(contents), chance.randrange(2**24)))
        kind, flags, stream = chance.randrange(12), chance.randrange(256), chance.choice((0, 1, 3, 2**31 - 1))
        made += said.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + contents
    return made
