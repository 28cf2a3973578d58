"""A controller's signer, devices with tokens, and a client that logs in to a relay's core by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from shadowmesh.dataplane.pumps import PUMP_NAMES, native_built
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.signing import Signer
from shadowmesh.protocol.token import RelayLimits, RelayTokenBody, sign_token
from shadowmesh.relay.relaycore import Out, RelayCore
from shadowmesh.relay.sessiontable import Transport

PUMPS = [name for name in PUMP_NAMES if name == "python" or native_built()]
NET_A, NET_B = NetworkID(b"A" * 32), NetworkID(b"B" * 32)
START = Now(1000.0, 1_764_000_000.0)
MESSAGE = b"\x04\0\0\0" + bytes(28)


class World:
    """One relay core in virtual time, and the controller that its tokens come from."""

    def __init__(self, **options: object) -> None:
        self.controller, self.signer = Signer.generate(), Signer.generate()
        self.core = RelayCore(self.signer, token_keys=[self.controller.public], **options)  # type: ignore[arg-type]
        self.now = START

    def token(
        self,
        device: Signer,
        network: NetworkID,
        ip: str,
        *,
        age: float = 0.0,
        valid: float = 30 * 86400.0,
        kbit: int = 0,
        network_kbit: int = 0,
        by: Signer | None = None,
        client_id: str = "",
    ) -> str:
        issued = self.now.wall - age
        body = RelayTokenBody(
            device_key=device.device_key,
            client_id=ClientID(client_id),
            network_id=network,
            ip=IPv4Address(ip),
            issued=issued,
            renew_after=issued + 900,
            valid_until=issued + valid,
            limits=RelayLimits(kbit=kbit, network_kbit=network_kbit),
        )
        return sign_token(body, by or self.controller)

    def client(self, network: NetworkID, ip: str, at: Transport, **token: object) -> Client:
        device = Signer.generate()
        return Client(self, device, network, IPv4Address(ip), at, self.token(device, network, ip, **token))  # type: ignore[arg-type]

    def sleep(self, seconds: float) -> Out:
        """Lets time go by, tick by tick; returns what the relay said of itself."""
        end, out = self.now.boot + seconds, []
        while (deadline := self.core.next_deadline()) <= end:
            self.now = self.now.after(max(0.0, deadline - self.now.boot))
            out += self.core.tick(self.now)
        self.now = self.now.after(end - self.now.boot)
        return out + self.core.tick(self.now)


@dataclass
class Client:
    world: World
    device: Signer
    network: NetworkID
    ip: IPv4Address
    at: Transport
    token: str
    welcome: wire.Welcome | None = None
    refused: wire.Refuse | None = None
    log: list[wire.ControlMessage] = field(default_factory=list)

    def send(self, data: bytes) -> Out:
        """The relay's output; what is for this client's transport as control is decoded into `log`."""
        out = self.world.core.receive(self.at, data, self.world.now)
        self.log += [wire.decode_control(d) for t, d in out if t == self.at and wire.is_control(d)]
        return out

    def login(self) -> Client:
        self.welcome = self.refused = None
        attempt = wire.LoginAttempt(self.token, self.world.signer.public, self.device)
        data: bytes | None = attempt.hello()
        while data is not None:
            out, data = self.send(data), None
            for transport, reply in out:
                if transport == self.at:
                    data = attempt.receive(wire.decode_control(reply)) or data
        self.welcome, self.refused = attempt.welcome, attempt.refused
        return self

    def frame(
        self, dest: Client | IPv4Address, *, network: NetworkID | None = None, source: str | None = None
    ) -> bytes:
        to = dest.ip if isinstance(dest, Client) else dest
        return wire.frame_prefix(network or self.network, IPv4Address(source) if source else self.ip, to) + MESSAGE


def udp(n: int) -> SockAddr:
    return SockAddr(f"198.51.100.{n}", 40000 + n)
