"""The parent's side: starts the pump's process and speaks with it."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane import wire
from shadowmesh.dataplane.interface import PumpDied
from shadowmesh.dataplane.pumps import PumpName, checked, choose_pump
from shadowmesh.model import pump as m

PUMP_SUBCOMMAND: Final = "__pump"  # what a frozen binary is started with to become a pump
_EVENT_BYTES: Final = 70_000
_APPLY_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0
_COMMAND_BUFFER: Final = 4 << 20
_EVENT_BUFFER: Final = 96 << 10


def pump_argv(name: PumpName) -> list[str]:
    """The command line that runs a pump's process, without its descriptors.

    In a frozen binary (PyInstaller) that is the binary itself with `PUMP_SUBCOMMAND` and the name, whose `child.main` its entry point calls.
    """
    if getattr(sys, "frozen", False):
        return [sys.executable, PUMP_SUBCOMMAND, name]
    return [sys.executable, "-P", "-m", f"shadowmesh.dataplane.{name}.child"]


class PumpProcess:
    """`interface.Pump` by a child process."""

    def __init__(self, name: PumpName | None = None) -> None:
        """Starts the child of this pump, or of the one that `choose_pump` names. Raises ShadowMeshError `pump_missing`, OSError."""
        self.name: PumpName = checked(name) if name is not None else choose_pump()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        table = os.memfd_create("shadowmesh-counters", os.MFD_CLOEXEC)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _COMMAND_BUFFER)
            # Small: what is in it has left its ring, so a flood of one kind would delay the others by so much.
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _EVENT_BUFFER)
            os.ftruncate(table, c.TABLE_BYTES)
            self._table = mmap.mmap(table, c.TABLE_BYTES, prot=mmap.PROT_READ)
            self._process = subprocess.Popen(
                [*pump_argv(self.name), str(theirs.fileno()), str(table)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), table),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(table)
        self._socket = ours

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def apply(self, commands: Sequence[m.Command]) -> None:
        """Raises PumpDied if the process is gone, or has taken nothing for five seconds."""
        self._socket.settimeout(_APPLY_SECONDS)
        try:
            for body, descriptors in wire.messages(commands):
                socket.send_fds(self._socket, [body], descriptors)
        except (ConnectionError, TimeoutError) as e:
            raise self._dead() from e

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self, limit: int = 256) -> list[m.Event]:
        events: list[m.Event] = []
        self._socket.setblocking(False)
        while len(events) < limit:
            try:
                data = self._socket.recv(_EVENT_BYTES)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                if events:
                    break  # what it still said comes first
                raise self._dead()
            events.append(wire.decode(data))
        return events

    def counters(self) -> memoryview:
        return memoryview(self._table).cast("Q")

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Ends the process by closing its socket; one that doesn't go within two seconds is killed."""
        self._socket.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _dead(self) -> PumpDied:
        self._process.kill()
        code = self._process.wait()
        return PumpDied(f"the pump's process ended (code {code})")
