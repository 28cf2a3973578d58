"""The port that the home router opens for this daemon: asks for it over a socket of its own, and tells of what is open."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address

import structlog

from shadowmesh.daemon.environment import Environment
from shadowmesh.engine.portmapper import MappingProblem, PortMapper, PortWish
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.protocol.natpmp import SERVER_PORT
from shadowmesh.protocol.pcp import NONCE_SIZE

log = structlog.get_logger(__name__)

_LONGEST_WAIT = 60.0  # seconds: the event loop's clock stands still while the host sleeps, the mapper's goes on
_PACKET = 1500


class RouterPort:
    """`changed` is called when another address is open than before, or none; it is `open` from then on. `secret`: of this device."""

    def __init__(self, environment: Environment, secret: Secret, changed: Callable[[], None]) -> None:
        self._environment = environment
        self._changed = changed
        nonce = hashlib.blake2b(key=secret.reveal(), digest_size=NONCE_SIZE, person=b"pcp nonce").digest()
        self._mapper = PortMapper(nonce, random.SystemRandom())
        self._wish: PortWish | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.open: SockAddr | None = None

    @property
    def problem(self) -> MappingProblem | None:
        """Why none is open, where one is wanted."""
        return self._mapper.problem

    def aim(self, wish: PortWish | None) -> None:
        """What is wanted from now on; None: no port."""
        if wish == self._wish:
            return
        self._wish = wish
        self._mapper.aim(wish, self._environment.clock())
        self._send()  # what is given back
        self._close()
        if wish is not None:
            try:
                self._socket = self._environment.ask_router(wish.client, wish.gateway)
            except (OSError, ShadowMeshError) as e:
                log.info("the router isn't asked for a port", why=str(e))
                self._mapper.aim(None, self._environment.clock())
            else:
                asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
        self._turn()

    def stop(self) -> None:
        """Gives back what is open."""
        self.aim(None)

    def _close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        if self._socket is None or self._wish is None:
            return
        moment, gateway = self._environment.clock(), SockAddr(str(self._wish.gateway), SERVER_PORT)
        try:
            data = self._socket.recv(_PACKET)  # the socket is connected: of others nothing is heard
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._mapper.closed(moment)
        except OSError:  # the way to it is gone: a change of the underlay follows
            return
        else:
            self._mapper.heard(data, gateway, moment)
        self._turn()

    def _turn(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._environment.clock()
        self._mapper.on_timer(moment)
        self._send()
        mapping = self._mapper.mapping
        now_open = None if mapping is None else mapping.outside
        if now_open != self.open:
            self.open = now_open
            log.info("port on the router", open=None if now_open is None else str(now_open))
            self._changed()
        due = self._mapper.deadline() - moment.boot
        if self._wish is not None and due != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(min(max(0.0, due), _LONGEST_WAIT), self._turn)

    def _send(self) -> None:
        for request in self._mapper.take_requests():
            if self._socket is not None:
                with suppress(OSError):  # it is asked again, unless there is no way to it
                    self._socket.send(request)


def wish_for(gateway: tuple[IPv4Address, IPv4Address] | None, port: int) -> PortWish | None:
    """What to ask for, of the next hop to the internet and this host's address towards it: nothing where that is public."""
    if gateway is None or gateway[1].is_global:
        return None
    return PortWish(gateway[0], gateway[1], port)
