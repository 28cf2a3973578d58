"""A relay's link and its meter as a process, with made-up traffic; what it really counted stands in a file that a kill leaves.

`python countingrelay.py DIR URL FINGERPRINT TOKEN CLIENT TRUTH`: counts until it is killed; with an empty TOKEN it counts
nothing, and ends when the controller has all that was counted before.
"""

from __future__ import annotations

import asyncio
import mmap
import random
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from shadowmesh.model.clock import Now
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import Secret
from shadowmesh.relay import controllerlink, metering
from shadowmesh.relay.controllerlink import Advertised, RelayControllerLink
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.store import RelayStore
from shadowmesh.relay.usageledger import LedgerState

EVERY = 0.1  # seconds: the interval at which it looks, saves and tells
_FORM = struct.Struct("<4Q")


@dataclass(slots=True)
class Truth:
    """Bytes since a start: that were used; that had been at the newest look, and at the one before it; that are on disk."""

    used: int = 0
    looked: int = 0
    before: int = 0
    saved: int = 0

    @classmethod
    def read(cls, path: Path) -> Truth:
        return cls(*_FORM.unpack(path.read_bytes()))

    def pack(self) -> bytes:
        return _FORM.pack(self.used, self.looked, self.before, self.saved)


def count(folder: Path, url: str, fingerprint: str, token: str, client: str, path: Path) -> None:
    truth = Truth()
    path.write_bytes(truth.pack())
    with path.open("r+b") as file, mmap.mmap(file.fileno(), _FORM.size) as shared, RelayStore(folder) as store:

        def note() -> None:
            shared[:] = truth.pack()

        def take_usage(_core: RelayCore) -> dict[ClientID, tuple[int, int]]:
            fresh, truth.before, truth.looked = truth.used - truth.looked, truth.looked, truth.used
            note()
            return {ClientID(client): (fresh, 0)} if fresh else {}

        save = store.save_usage

        def saving(state: LedgerState) -> None:
            looked = truth.looked
            save(state)
            truth.saved = looked
            note()

        async def use() -> None:
            while True:
                truth.used += random.randint(1, 1000)
                note()
                await asyncio.sleep(0.001)

        async def main() -> None:
            link = RelayControllerLink(
                RelayCore(store.signer()),
                store,
                Advertised("counting", "ws://127.0.0.1:9545", udp=False, port=9545),
                clock=lambda: Now(time.monotonic(), time.time()),
                send=lambda _: None,
                url=url,
                token=Secret(token.encode()) if token else None,
                fingerprint=fingerprint,
            )
            tasks = [asyncio.create_task(link.run())]
            if token:
                tasks.append(asyncio.create_task(use()))
            print("counting", flush=True)
            while token or not _all_told(store):  # noqa: ASYNC110 - a file
                await asyncio.sleep(EVERY)
            for task in tasks:
                task.cancel()

        controllerlink._FIRST_RETRY = controllerlink._LAST_RETRY = 0.05
        metering.Metering.__init__.__defaults__ = (EVERY,)
        RelayCore.take_usage = take_usage  # type: ignore[method-assign]
        store.save_usage = saving  # type: ignore[method-assign]
        asyncio.run(main())


def _all_told(store: RelayStore) -> bool:
    state = store.usage()
    return state is None or (state.pending is None and not state.waiting)


if __name__ == "__main__":
    folder, url, fingerprint, token, client, path = sys.argv[1:]
    count(Path(folder), url, fingerprint, token, client, Path(path))
