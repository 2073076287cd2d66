"""A gateway between PLCs that speak OPC UA and the inspection service: an OPC UA server with one method.

    Inspection.Inspect(Part, Picture, Product) ──▶ (Verdict, Reason, Score, Milliseconds)
    Inspection.Ready                               whether the service inspects --product, seen each second

An empty Product is --product's. The verdict is OK, REVIEW, NG, or NOT INSPECTED with a reason and the worst
score, 1. The takt starts when the call arrives, and it returns --reserve-ms before the takt ends at the
latest. An answer takes time on its way, too: the PLC must discard what comes after its own timer, and eject a
part whose call fails. Calls do not wait for each other, whether over one connection or many.

An address that others can reach needs --certificate, --key and --trusted, and then takes only clients whose
certificates lie in that folder (whatever their dates), signed and encrypted (Basic256Sha256); restart it when
they change. Strangers get no verdict then, but can stop the others, as can a client: asyncua limits little of
what it is sent, so let a firewall admit the PLCs only. OPC UA asks for all of this in a certificate:

    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout opcua.key -out opcua.pem \\
      -subj /CN=drd-inspect -addext subjectAltName=URI:urn:HOST:drd-inspect,DNS:HOST \\
      -addext keyUsage=digitalSignature,nonRepudiation,keyEncipherment,dataEncipherment \\
      -addext extendedKeyUsage=serverAuth,clientAuth

Needs gateway.py and opcua_server.py beside it, this repository's extra `client`, and asyncua 2.1.
"""

import argparse
import asyncio
import os
import time
from pathlib import Path

from asyncua import Node, ua
from gateway import Inspector, options_of_all, run, tell
from opcua_server import Identity, address, is_local, server_at, standard

from service.client import Answer, AsyncClient, ClientError

NAMESPACE = "urn:drd-inspect:gateway"
READY_SECONDS = 1.0
STRING, DOUBLE = ua.VariantType.String, ua.VariantType.Double
GIVEN = {"Part": STRING, "Picture": STRING, "Product": STRING}
RETURNED = {"Verdict": STRING, "Reason": STRING, "Score": DOUBLE, "Milliseconds": DOUBLE}
LISTEN_HELP = "default opc.tcp://127.0.0.1:4840"


class Gateway:
    """The object `Inspection` of the OPC UA server."""

    def __init__(self, service: AsyncClient, identity: Identity | None, options: argparse.Namespace) -> None:
        self._service, self._identity, self._options = service, identity, options
        self._inspector = Inspector(service, options)

    async def run(self) -> None:
        server = await server_at(self._options.listen, self._identity)
        index = await server.register_namespace(NAMESPACE)

        def named(name: str) -> tuple[ua.NodeId, str]:
            return ua.NodeId.from_string(f"ns={index};s={name}"), f"{index}:{name.rpartition('.')[2]}"

        inspection = await server.nodes.objects.add_object(*named("Inspection"))
        ready = await inspection.add_variable(*named("Inspection.Ready"), False)
        arguments = [
            [ua.Argument(name, standard(kind.value), ua.ValueRank.Scalar) for name, kind in each.items()]
            for each in (GIVEN, RETURNED)
        ]
        await inspection.add_method(*named("Inspection.Inspect"), self._inspect, *arguments)
        async with server, asyncio.TaskGroup() as both:
            tell(f"listening on {self._options.listen}")
            both.create_task(self._inspector.run())
            both.create_task(self._follow_service(ready))

    async def _follow_service(self, ready: Node) -> None:
        name, said = self._options.product, ""
        while True:
            try:
                states = {each.state for each in await self._service.products() if each.name == name}
                state = "READY" if "READY" in states else "not ready"
            except ClientError as error:
                state = f"not ready: {error}"
            await ready.write_value(state == "READY")
            if state != said:
                tell(f"{name} is {state}")
            said = state
            await asyncio.sleep(READY_SECONDS)

    async def _inspect(self, _parent: ua.NodeId, *given: ua.Variant) -> list[ua.Variant] | ua.StatusCode:
        since, at = time.monotonic(), time.time()
        texts = ["" if each.Value is None else each.Value for each in given]
        if len(texts) != len(GIVEN) or not all(isinstance(text, str) for text in texts):
            return ua.StatusCode(ua.UInt32(ua.StatusCodes.BadInvalidArgument))
        part, picture, product = texts
        result = await self._inspector.inspect(picture, product or self._options.product, part, since, at)
        milliseconds = 1000 * (time.monotonic() - since)
        if isinstance(result, Answer) and milliseconds > self._options.takt_ms:
            result = "too late"
        said: tuple[str, str, float, float]
        if isinstance(result, Answer):
            said = result.verdict, result.reason, result.score, milliseconds
        else:
            said = "NOT INSPECTED", result, 1.0, milliseconds
        return [ua.Variant(value, kind) for value, kind in zip(said, RETURNED.values(), strict=True)]


async def serve(options: argparse.Namespace) -> None:
    identity = None
    if options.certificate:
        identity = Identity.load(options.certificate, options.key, options.trusted)
    token = os.environ.get("DRD_TOKEN")
    async with AsyncClient(options.to, token=token, ca=options.ca, deadline=READY_SECONDS) as service:
        await Gateway(service, identity, options).run()


def main() -> None:
    parser = options_of_all(__doc__)
    add = parser.add_argument
    add("--listen", type=address, default="opc.tcp://127.0.0.1:4840", metavar="URL", help=LISTEN_HELP)
    add("--certificate", type=Path, metavar="FILE", help="the server's certificate, PEM or DER")
    add("--key", type=Path, metavar="PEM", help="its RSA key")
    add("--trusted", type=Path, metavar="FOLDER", help="certificates of the clients, PEM or DER")
    add("--open-to-anyone", action="store_true", help="no certificates: whoever reaches it may use it")
    options = parser.parse_args()
    secured = [options.certificate, options.key, options.trusted]
    if any(secured) and (options.open_to_anyone or not all(secured)):
        parser.error("--certificate, --key and --trusted go together, and not with --open-to-anyone")
    if not (all(secured) or options.open_to_anyone or is_local(options.listen)):
        parser.error(f"{options.listen} needs --certificate, --key and --trusted, or --open-to-anyone")
    run("opcua_gateway", serve(options))


if __name__ == "__main__":
    main()
