"""The child's loop: one thread, epoll, the descriptors it was given, the commands it is told."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from shadowmesh.dataplane import wire
from shadowmesh.dataplane.aead import Buffer
from shadowmesh.dataplane.pumpcore import PumpCore
from shadowmesh.dataplane.pumpstate import NetState, PeerState
from shadowmesh.dataplane.python.coalesce import Coalescer
from shadowmesh.dataplane.python.inbound import Inbound
from shadowmesh.dataplane.python.outbound import Outbound
from shadowmesh.dataplane.python.transports import StreamTransport, Transport, UdpTransport, Way
from shadowmesh.dataplane.sockets import receive_options
from shadowmesh.dataplane.tun import Offloads, negotiate
from shadowmesh.model import pump as m

_COMMAND_BYTES: Final = 1 << 18
_WAYS: Final = 16384
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT


class Tun:
    """An interface's descriptor and what it can do."""

    def __init__(self, fd: int, net: NetState) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.net = net
        self.offloads: Offloads = negotiate(fd)
        self.coalescer = Coalescer(self.offloads)


class Loop:
    """Runs until the other end of the control socket closes. Implements `pumpcore.Output` and `outbound.Ways`."""

    def __init__(self, control: socket.socket, table: memoryview) -> None:
        self._control = control
        control.setblocking(False)
        self._core = PumpCore(self, table=table)
        self._outbound = Outbound(self._core, self)
        self._inbound = Inbound(self._core, self._write, self._coalescer)
        self._transports: dict[int, Transport] = {}
        self._tuns: dict[int, Tun] = {}
        self._ways: dict[m.Path, Way] = {}
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int, float], None]] = {}
        self._running = True
        self._unsent: bytes | None = None  # an event that the control socket couldn't take yet
        self._no_coalescer = Coalescer(Offloads())
        self._watch(control.fileno(), self._on_control)

    def run(self) -> None:
        """Serves until the control socket closes."""
        poll, handlers, clock = self._epoll.poll, self._handlers, time.clock_gettime
        boottime = time.CLOCK_BOOTTIME
        while self._running:
            ready = poll()
            now = clock(boottime)
            for fd, what in ready:
                handler = handlers.get(fd)
                if handler is not None:
                    handler(what, now)
            if self._unsent is None and self._core.events.waiting:
                self._report(now)

    def _watch(self, fd: int, handler: Callable[[int, float], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, _READ)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # the control socket

    def _on_control(self, what: int, now: float) -> None:
        if what & _WRITE:
            self._report(now)
        if not what & ~_WRITE:
            return
        try:
            body, descriptors, _, _ = socket.recv_fds(self._control, _COMMAND_BYTES, wire.MESSAGE_DESCRIPTORS)
        except BlockingIOError:
            return
        except ConnectionError:
            body = b""
        if not body:
            self._running = False
            return
        used: set[int] = set()
        for command in wire.unpack_message(body, descriptors):
            self._apply(command, used, now)
        for fd in set(descriptors) - used:
            os.close(fd)

    def _report(self, now: float) -> None:
        """Sends events up, each a message, until the socket is full; the rest waits in its bounded rings."""
        was_blocked = self._unsent is not None
        while True:
            if self._unsent is None:
                events = self._core.events.drain(1, now)
                if not events:
                    break
                self._unsent = wire.encode(events[0])
            try:
                self._control.send(self._unsent)
            except BlockingIOError:
                if not was_blocked:
                    self._epoll.modify(self._control.fileno(), _READ | _WRITE)
                return
            except ConnectionError:
                self._running = False
                return
            self._unsent = None
        if was_blocked:
            self._epoll.modify(self._control.fileno(), _READ)

    # commands

    def _apply(self, command: m.Command, used: set[int], now: float) -> None:
        match command:
            case m.AddTun(net=net, fd=fd):
                self._drop_tun(net)
                used.add(fd)
                tun = self._tuns[net] = Tun(fd, self._core.net(net))
                self._watch(fd, lambda what, now: self._on_tun(tun, now))
            case m.RemoveTun(net=net):
                self._drop_tun(net)
            case m.AddSocket(slot=slot, fd=fd):
                self._drop_link(slot)
                used.add(fd)
                udp = UdpTransport(slot, socket.socket(fileno=fd))
                receive_options(udp.sock)
                self._transports[slot] = udp
                self._ways.clear()
                self._watch(fd, lambda what, now: self._on_socket(udp, now))
            case m.AddStream(slot=slot, fd=fd):
                self._drop_link(slot)
                used.add(fd)
                stream = StreamTransport(slot, socket.socket(fileno=fd), lambda: self._epoll.modify(fd, _READ | _WRITE))
                self._transports[slot] = stream
                self._ways.clear()
                self._watch(fd, lambda what, now: self._on_stream(stream, what, now))
            case m.RemoveSocket(slot=slot) | m.RemoveStream(slot=slot):
                self._drop_link(slot)
            case _:
                pass
        self._core.apply(command, now)

    def _drop_tun(self, net: int) -> None:
        tun = self._tuns.pop(net, None)
        if tun is not None:
            self._unwatch(tun.fd)
            os.close(tun.fd)

    def _drop_link(self, slot: int) -> None:
        transport = self._transports.pop(slot, None)
        if transport is not None:
            self._unwatch(transport.fd)
            transport.close()
            self._ways.clear()
            self._inbound.forget(slot)

    # descriptors

    def _on_tun(self, tun: Tun, now: float) -> None:
        try:
            self._outbound.read(tun.fd, tun.net, tun.offloads, now)
        except OSError as e:
            self._drop_tun(tun.net.index)
            self._core.gone(m.DescriptorKind.TUN, tun.net.index, e.errno or errno.EIO, now)

    def _on_socket(self, transport: UdpTransport, now: float) -> None:
        try:
            self._inbound.read_socket(transport, now)
        except OSError as e:
            self._drop_link(transport.slot)
            self._core.gone(m.DescriptorKind.SOCKET, transport.slot, e.errno or errno.EIO, now)

    def _on_stream(self, transport: StreamTransport, what: int, now: float) -> None:
        if what & _WRITE and not (transport.unsent and transport.push()):
            self._epoll.modify(transport.fd, _READ)
        try:
            if what & ~_WRITE:
                self._inbound.read_stream(transport, now)
        except OSError as e:
            self._drop_link(transport.slot)
            self._core.gone(m.DescriptorKind.STREAM, transport.slot, e.errno or errno.EIO, now)

    # outbound.Ways

    def way(self, path: m.Path) -> Way | None:
        found = self._ways.get(path)
        if found is None:
            transport = self._transports.get(path.via)
            if transport is None or (transport.is_stream != (path.remote is None)):
                return None
            if len(self._ways) >= _WAYS:
                self._ways.clear()
            found = self._ways[path] = Way(path, transport)
        return found

    # pumpcore.Output

    def send(self, path: m.Path, data: bytes) -> int:
        way = self.way(path)
        if way is None:
            return errno.EBADF
        return way.send_one(data)

    def deliver(self, net: m.NetIndex, packet: Buffer) -> int:
        state = self._core.net(net)
        return self._write(state, self._coalescer(state).single(packet), 1)

    def transmit(self, peer: PeerState, packets: list[bytes], now: float) -> None:
        tun = self._tuns.get(peer.net.index)
        if tun is not None:
            self._outbound.resend(peer, packets, tun.offloads, now)

    # interfaces

    def _coalescer(self, net: NetState) -> Coalescer:
        tun = self._tuns.get(net.index)
        return tun.coalescer if tun is not None else self._no_coalescer

    def _write(self, net: NetState, pieces: list[Any], packets: int) -> int:
        """Hands a packet to the interface. Returns errno or 0: one that is down (EIO) or full just loses it."""
        tun = self._tuns.get(net.index)
        if tun is None:
            return errno.EBADF
        try:
            os.writev(tun.fd, pieces)
        except OSError as e:
            return e.errno or errno.EIO
        return 0
