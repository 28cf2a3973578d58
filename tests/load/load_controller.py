"""The controller under load, one node or several: processes of their own, and what they have used so far."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from freeport import free_port
from load_wire import Http


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
    """`shadowmesh controller run` in a directory of its own; a further node has the secrets that another one exported."""

    def __init__(self, directory: Path, *, database_url: str | None = None, secrets: Path | None = None) -> None:
        self.port = free_port()
        self._data = directory / "controller"
        self._log = directory / "controller.log"
        self._process: subprocess.Popen[bytes] | None = None
        url, listen = f"https://127.0.0.1:{self.port}", f"0.0.0.0:{self.port}"
        database = [] if database_url is None else ["--database-url", database_url]
        joined = [] if secrets is None else ["--join-secrets", str(secrets)]
        made = self._call("init", "--public-url", url, "--listen", listen, *database, *joined, "--json")
        self.first: dict[str, str] = json.loads(made)

    def _call(self, *command: str) -> bytes:
        words = (sys.executable, "-m", "shadowmesh", "controller", *command, "--data-dir", self._data)
        return subprocess.run(words, check=True, capture_output=True).stdout

    def secrets(self) -> bytes:
        return self._call("secrets", "export")

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shadowmesh", "controller", "run", "--data-dir", self._data],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    async def serving(self, patience: float = 60.0) -> float:
        """Waits until it answers; returns when that was, by the monotonic clock. Raises RuntimeError with the end of its log if it ended."""
        end = time.monotonic() + patience
        while True:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(
                    f"the controller ended with {self._process.returncode}: {self._log.read_text()[-2000:]}"
                )
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
        if self._process is not None and self.lives:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)


class Controllers:
    """The nodes of one controller. On SQLite there is one."""

    def __init__(self, directory: Path, nodes: int = 1, database_url: str | None = None) -> None:
        self.nodes = [ControllerProcess(_made(directory / "0"), database_url=database_url)]
        if nodes > 1:
            secrets = directory / "secrets"
            secrets.write_bytes(self.nodes[0].secrets())
            for number in range(1, nodes):
                where = _made(directory / str(number))
                self.nodes.append(ControllerProcess(where, database_url=database_url, secrets=secrets))

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(node.port for node in self.nodes)

    def http(self, source: str | None = None, node: int = 0) -> Http:
        """As the first administrator."""
        return Http(self.ports[node], key=self.nodes[0].first["api_key"], source=source)

    async def start(self) -> None:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            await node.serving()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def cpu(self) -> float:
        """Seconds, of all that live."""
        return sum(cpu_seconds(node.pid) for node in self.nodes if node.lives)

    def resident_kb(self) -> int:
        return sum(resident_kb(node.pid) for node in self.nodes if node.lives)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
