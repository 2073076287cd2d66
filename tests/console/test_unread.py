"""What callers ask for costs the service neither time nor memory."""

import asyncio
import json
import socket
import ssl
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service import unread
from service.console.events import STEP, listed
from tests.access.certificates import Authority
from tests.bundles import make_bundle
from tests.console.records import record
from tests.e2e.serving import serving, wait_until
from tests.service.images import encoded
from tests.service.loop import on_a_loop


def test_answers_that_are_not_read_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS, which takes whatever it is given."""
    make_bundle(tmp_path / "models", "tile")
    authority = Authority(tmp_path / "certificates")
    trusting = ssl.create_default_context(cafile=authority.certificate)
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), np.uint8)
    sent = encoded(Image.fromarray(noise), "BMP")
    monkeypatch.setattr(unread, "MAX_UNREAD", len(sent))

    with (
        serving(tmp_path / "models", **authority.issue("service").settings()) as running,
        httpx.Client(base_url=f"https://{running.service.http[0]}", verify=trusting, timeout=30) as http,
    ):
        kind = {"content-type": "image/bmp"}
        http.post("/v1/inspect?product=tile&include=", content=sent, headers=kind).raise_for_status()
        wait_until(lambda: running.service.history.newest == 1)
        path = f"/v1/verdicts/{http.get('/v1/verdicts').json()['records'][0]['id']}/frame"
        with (
            running.connected() as connection,
            trusting.wrap_socket(connection, server_hostname="localhost") as idle,
        ):
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            idle.sendall(f"GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n".encode())
            assert idle.recv(12) == b"HTTP/1.1 200"
            assert [http.get(asked).status_code for asked in (path, "/v1/verdicts")] == [429, 429]
            assert http.get("/v1/products").status_code == 200
            assert received(idle).endswith(sent[-1000:])
        wait_until(lambda: http.get(path).content == sent)


def received(connection: socket.socket) -> bytes:
    parts = list[bytes]()
    while part := connection.recv(2**20):
        parts.append(part)
    return b"".join(parts)


@on_a_loop
async def test_a_long_list_does_not_stop_the_event_loop() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    content = await listed([record() for _ in range(50 * STEP)], "", counts={})
    counting.cancel()
    assert len(json.loads(content)["records"]) == 50 * STEP
    assert turns >= 50
