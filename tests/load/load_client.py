"""A machine in the loaded network: the whole daemon with a simulated pump, in a process of its own.

Commands come on stdin, one a line: `mark` answers with what it has used so far, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog


class _NoController(ModuleType):
    """A module of the controller: the kit imports them, and a client doesn't have them in its memory."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _LeftOut:
    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        ours = name.startswith("shadowmesh.controller")
        return ModuleSpec(name, self, is_package=True) if ours else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _NoController(spec.name)

    def exec_module(self, _module: ModuleType) -> None: ...


sys.meta_path.insert(0, _LeftOut())  # type: ignore[arg-type]

from daemonkit import Lan, Machine  # noqa: E402
from load_controller import resident_kb  # noqa: E402


def written() -> int:
    """Bytes that this process gave to write calls: the simulated pump writes none."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


async def main(directory: Path, invite: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    machine = await Machine("whole", Lan(), "127.9.9.9", directory).start()
    await machine.join(invite, timeout=60)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    (network,) = machine.daemon.networks.values()
    print(json.dumps({"client_id": network.record.client_id}), flush=True)
    while await reader.readline():
        assert network.map is not None
        state = {
            "serial": network.map.serial,
            "members": len(network.map.ids),
            "cpu": time.process_time(),
            "written": written(),
            "resident": resident_kb(os.getpid()),
        }
        print(json.dumps(state), flush=True)
    await machine.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
