"""`shadowmesh relay run`: the relay as a process."""

from __future__ import annotations

import asyncio
import gc
import socket
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shadowmesh.client_api.contact import normal_url
from shadowmesh.config.relayconfig import RelayConfig
from shadowmesh.config.resolving import Resolved
from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.pumps import PumpName, choose_pump
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.model.relaylink import is_relay_url
from shadowmesh.model.text import safe_part
from shadowmesh.relay.controllerlink import Advertised, RelayControllerLink
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.server import RelayServer
from shadowmesh.relay.store import RelayStore
from shadowmesh.serving.ending import end_within, stop_on_signals
from shadowmesh.serving.rarelog import tame_libraries

log = structlog.get_logger(__name__)

DEFAULT_PORT = 9545


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What `relay run` is told. `controller` and `token` are needed the first time only.

    `listen`: ADDRESS:PORT for TCP and UDP; the address `[::]` serves IPv4 and IPv6. `public_udp` is where clients reach
    the relay by UDP; None: at the host of the public URL and the port listened on. `capacity` in Mbit/s, None for as much
    as the machine can. With `tls_cert` and `tls_key` the port speaks wss:// instead of ws://.
    """

    data_dir: Path
    public_url: str
    listen: str = f"0.0.0.0:{DEFAULT_PORT}"
    controller: str | None = None
    token: str | None = field(default=None, repr=False)
    fingerprint: str | None = None
    name: str | None = None  # None: this host's
    udp: bool = True
    public_udp: SockAddr | None = None
    region: str = ""
    capacity: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    mtls: bool = False  # linked to the controller by a certificate of its authority, too


def options_of(found: Resolved[RelayConfig]) -> RelayOptions:
    """What a configuration says. Its public URL is there: `relayconfig.remarks` asks for it."""
    config = found.config
    relay, controller = config.relay, config.controller
    return RelayOptions(
        data_dir=relay.data_dir,
        listen=relay.listen_address,
        public_url=relay.public_url or "",
        controller=controller.url,
        token=None if controller.token is None else controller.token.reveal().decode(),
        fingerprint=controller.fingerprint,
        name=relay.name,
        udp=relay.udp,
        region=relay.region,
        capacity=relay.capacity_mbit,
        tls_cert=relay.tls.cert_file,
        tls_key=relay.tls.key_file,
        mtls=config.authentication.method == "mtls",
    )


def run(options: RelayOptions, remarks: tuple[str, ...] = ()) -> None:
    """Serves until SIGTERM or SIGINT, then says goodbye to the clients and returns.

    Raises ShadowMeshError: `bad_public_url`, `bad_listen`, `relay_not_registered` (USAGE), `port_taken` (CONFLICT), `cannot_listen`,
    `bad_certificate`, `relay_running` (CONFLICT), those of `choose_pump`, those of the state, and what the controller refused.
    """
    tame_libraries("shadowmesh.relay")
    for remark in remarks:
        log.warning("configuration", remark=remark)
    asyncio.run(_main(options))


async def _main(options: RelayOptions) -> None:
    _check_public_url(options.public_url)
    if options.controller is not None:
        normal_url(options.controller)
    listen = _listen(options.listen, udp=options.udp)
    pump = choose_pump()
    outer = OuterSockets(required=False)
    tls = _tls(options, pump)
    with RelayStore(options.data_dir) as store:
        capacity = options.capacity * 125_000.0 if options.capacity else None
        core = RelayCore(store.signer(), capacity=capacity, pump=pump)
        server = RelayServer(core, listen, udp=options.udp, tls=tls, outer=outer, metrics_token=store.metrics_token())
        advertised = Advertised(
            name=options.name or safe_part(socket.gethostname().partition(".")[0]) or "relay",
            public_url=options.public_url,
            udp=options.udp,
            public_udp=options.public_udp,
            port=listen.port,
            region=options.region,
            capacity_mbit=options.capacity,
        )
        link = RelayControllerLink(
            core,
            store,
            advertised,
            clock=server.clock,
            send=server.send,
            url=options.controller,
            token=None if options.token is None else Secret(options.token.encode()),
            fingerprint=options.fingerprint,
            connect=outer.connect,
            mtls=options.mtls,
        )
        async with server:
            log.info(
                "listening",
                port=server.port,
                udp=options.udp,
                public_url=options.public_url,
                pump=core.forwarding.name,
            )
            gc.freeze()
            await _until_stopped(link)
    log.info("stopped")


async def _until_stopped(link: RelayControllerLink) -> None:
    """Until a signal. Raises what the link raises."""
    stop = asyncio.Event()
    stop_on_signals(stop.set)
    running = asyncio.create_task(link.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    finally:
        end_within("relay")
        running.cancel()
        stopping.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


def _listen(text: str, *, udp: bool) -> SockAddr:
    try:
        found = SockAddr.parse(text)
        if udp and found.next_port is None:
            raise MalformedError(f"with UDP the port after {found.port} is needed, too, and there is none")
        return found
    except MalformedError as e:
        raise ShadowMeshError(
            "bad_listen", str(e), f"give --listen as ADDRESS:PORT, for example 0.0.0.0:{DEFAULT_PORT}", kind=Kind.USAGE
        ) from e


def _check_public_url(url: str) -> None:
    if not is_relay_url(url):
        raise ShadowMeshError(
            "bad_public_url",
            f"{url!r} is not a relay's public URL",
            f"give it as ws://HOST:{DEFAULT_PORT} or wss://HOST:PORT",
            kind=Kind.USAGE,
        )


def _tls(options: RelayOptions, pump: PumpName) -> ServerTls | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise ShadowMeshError(
            "bad_certificate", "a certificate needs its key and the other way round", "give both", kind=Kind.USAGE
        )
    try:
        return ServerTls(options.tls_cert, options.tls_key, pump)
    except OSError as e:
        raise ShadowMeshError(
            "bad_certificate",
            f"the certificate {options.tls_cert} can't be used ({e.strerror or e})",
            "give a PEM certificate and its key",
        ) from e
