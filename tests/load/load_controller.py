"""The controller under load: a process of its own, and what it has used so far."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from load_wire import Http


def free_port() -> int:
    """A TCP port that is free now, with the next one for STUN."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return int(port)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process that live, to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


class ControllerProcess:
    """`shadowmesh controller run` in a directory, with its administrator's key."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._data = directory / "controller"
        self._log = directory / "controller.log"
        self._command = [sys.executable, "-m", "shadowmesh", "controller"]
        url = f"https://127.0.0.1:{self.port}"
        made = subprocess.run(
            [*self._command, "init", "--data-dir", self._data, "--public-url", url, "--listen", f"0.0.0.0:{self.port}", "--json"],
            check=True,
            capture_output=True,
        )  # fmt: skip
        self.first = json.loads(made.stdout)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def http(self, source: str | None = None) -> Http:
        return Http(self.port, key=self.first["api_key"], source=source)

    def launch(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "run", "--data-dir", self._data],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    async def serving(self, patience: float = 60.0) -> float:
        """Waits until it answers; returns when that was, by the monotonic clock."""
        end = time.monotonic() + patience
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return time.monotonic()
            except OSError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, as a machine that loses its power."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)

    def cpu(self) -> float:
        return cpu_seconds(self.pid)
