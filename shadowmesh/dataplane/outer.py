"""Outer sockets: those by which a role speaks to the world, as against what goes through an overlay.

Every one carries a mark (SO_MARK), and the routes of overlays are behind a rule that marked packets pass by. So no network's subnet, whatever it
covers, can swallow the mesh's own packets. The mark is the same for all roles on a host.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from itertools import chain, zip_longest
from typing import Final, TypeAlias

import structlog

from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import whole_number

log = structlog.get_logger(__name__)

ENVIRONMENT: Final = "SHADOWMESH_FWMARK"
_ATTEMPT_DELAY: Final = 0.25  # RFC 8305, section 5: between one attempt to connect and the next

_Where: TypeAlias = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


def _number(text: str) -> int:
    """Of decimal digits, or of hexadecimal ones after 0x. Raises ValueError."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text):
        return int(text, 16)
    return whole_number(text)


@dataclass(frozen=True, slots=True)
class FirewallMark:
    """A mark and the bits of it that count, as in ip-rule(8)."""

    value: int = 0x53000000  # bits that neither Tailscale (0xff0000), wg-quick (51820) nor Kubernetes (0xc000) use
    mask: int = 0xFF000000

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"

    @classmethod
    def parse(cls, text: str) -> FirewallMark:
        """`MARK/MASK` or `MARK`, decimal or with 0x. Raises ShadowMeshError(USAGE)."""
        value, slash, mask = text.strip().partition("/")
        try:
            found = cls(_number(value), _number(mask) if slash else 0xFFFFFFFF)
        except ValueError:
            found = cls(0, 0)
        if not 0 < found.value <= found.mask <= 0xFFFFFFFF or found.value & ~found.mask:
            raise ShadowMeshError(
                "bad_mark",
                f"{text!r} is not a mark and its mask",
                f"give it as MARK/MASK, for example {cls()}, with no bit of the mark outside the mask",
                kind=Kind.USAGE,
            )
        return found

    @classmethod
    def from_environment(cls) -> FirewallMark:
        """`$SHADOWMESH_FWMARK`, else the default. Raises ShadowMeshError(USAGE)."""
        text = os.environ.get(ENVIRONMENT)
        return cls.parse(text) if text else cls()


class OuterSockets:
    """Makes and marks them. One for a process."""

    def __init__(
        self,
        mark: FirewallMark | None = None,
        *,
        required: bool,
        reaching: Callable[[IPAddress], None] = lambda address: None,
    ) -> None:
        """`required`: without the privilege (CAP_NET_ADMIN) sockets are refused; else they go unmarked, and that is said once.

        `reaching` is told each address that TCP connects to, before it does.
        """
        self.fwmark = mark or FirewallMark.from_environment()
        self._required = required
        self._reaching = reaching
        self._warned = False

    def mark(self, sock: socket.socket) -> socket.socket:
        """Marks an IP socket that isn't connected yet; of a listening one, what it accepts is marked, too.

        Raises ShadowMeshError `mark_not_allowed` (NOT_ALLOWED).
        """
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.fwmark.value)
        except PermissionError as e:
            if self._required:
                raise ShadowMeshError(
                    "mark_not_allowed",
                    "no permission to mark sockets, without which a network could swallow its own packets",
                    "run it as root, or with CAP_NET_ADMIN",
                    kind=Kind.NOT_ALLOWED,
                ) from e
            if not self._warned:
                self._warned = True
                log.warning(
                    "sockets go unmarked",
                    why="no CAP_NET_ADMIN",
                    means="where a client daemon runs on this host, too, the subnet of one of its networks could hide clients from us",
                )
        return sock

    def udp(self, address: IPAddress, port: int = 0) -> socket.socket:
        """`sockets.open_udp`, marked. Raises OSError, and as `mark` does."""
        return open_udp(address, port, prepare=self.mark)

    async def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connects TCP to the first address of `host` that answers, both IP versions in turns (RFC 8305, Happy Eyeballs).

        Returns a non-blocking socket. Raises OSError (TimeoutError is one), and as `mark` does.
        """
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return await self._first([(info[0], info[4]) for info in found])  # type: ignore[misc]

    async def _first(self, places: Sequence[_Where]) -> socket.socket:
        """The first connection that stands; the others end."""
        running: set[asyncio.Task[socket.socket]] = set()
        failure: OSError = OSError("no address")
        waiting = list(_alternating(places))
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(self._attempt(waiting.pop(0))))
                delay = _ATTEMPT_DELAY if waiting else None
                done, running = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda t: t.exception() is not None):
                    error = task.exception()
                    if error is None:
                        running |= done - {task}
                        return task.result()
                    if not isinstance(error, OSError):
                        raise error
                    failure = error
            raise failure
        finally:
            for task in running:
                task.add_done_callback(_discard)
                task.cancel()

    async def _attempt(self, place: _Where) -> socket.socket:
        family, address = place
        self._reaching(_address(address[0]))
        sock = socket.socket(
            family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP
        )
        try:
            self.mark(sock)
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock


def _discard(task: asyncio.Task[socket.socket]) -> None:
    """A connection that nobody waits for any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _alternating(places: Sequence[_Where]) -> list[_Where]:
    """In the resolver's order, but each IP version in turns, so that one that is dead costs no more than a moment."""
    first = [p for p in places if p[0] == places[0][0]]
    other = [p for p in places if p[0] != places[0][0]]
    return [p for p in chain.from_iterable(zip_longest(first, other)) if p is not None]


def _address(text: str) -> IPAddress:
    address = ip_address(text.partition("%")[0])
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
