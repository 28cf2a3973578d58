"""A restarted daemon is heard at once by those that go on with sessions of before."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from daemonkit import Controller, Machine, controller, until

from shadowmesh.daemon import mesh
from shadowmesh.daemon.recent import NAME, RecentFile
from shadowmesh.engine import RecentPeer, WarmStart
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID

SOON = 5.0  # seconds on a busy machine; WireGuard alone takes more than fifteen


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


async def hears_within(listener: Machine, speaker: Machine, seconds: float) -> None:
    """The speaker goes on sending."""
    words = [number.to_bytes(4) for number in range(1000)]
    async with asyncio.timeout(seconds):
        for word in itertools.cycle(words):
            speaker.says(listener, word)
            await asyncio.sleep(0.02)
            if any(listener.heard(w) for w in words[: words.index(word) + 1]):
                return


@pytest.mark.parametrize("away", [False, True], ids=["controller", "no controller"])
async def test_a_restarted_daemon_hears_who_goes_on_with_its_old_session(there: Controller, away: bool) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b) and await b.reaches(a)
    with there.unreachable() if away else nullcontext():
        await b.restart()
        b.delivered.clear()
        await hears_within(b, a, SOON)


async def test_after_a_crash_it_still_knows_whom_it_talked_with_just_before(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "LOOK", 3600.0)  # a handshake is what has it written
    a, b = await there.member("a"), await there.member("b")
    await until(lambda: (b.directory / NAME).exists() or a.says(b, b"hello"))
    kept = json.loads((b.directory / NAME).read_text())
    assert set(kept) == {"peers", "streams"}
    (peer,) = kept["peers"]
    assert set(peer) == {"network_id", "client_id", "at", "endpoints", "home", "standby", "plain"}, (
        "no keys, counters, indices"
    )
    assert (b.directory / NAME).stat().st_mode & 0o777 == 0o600


PEER = RecentPeer(
    NetworkID(bytes(32)), ClientID("cli_a"), 1000.0, (SockAddr("192.0.2.1", 4000), SockAddr("2001:db8::1", 4000))
)


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    kept = WarmStart((PEER,))
    assert RecentFile(tmp_path).read() is None
    RecentFile(tmp_path).keep(kept)
    assert RecentFile(tmp_path).read() == kept


def test_it_is_written_when_others_are_in_it_or_its_times_grow_old(tmp_path: Path) -> None:
    file, path = RecentFile(tmp_path), tmp_path / NAME
    file.keep(WarmStart())
    assert not path.exists(), "nobody to remember"
    file.keep(WarmStart((PEER,)))
    written = path.stat().st_mtime_ns
    file.keep(WarmStart((replace(PEER, at=1019.0),)))
    assert path.stat().st_mtime_ns == written
    file.keep(WarmStart((replace(PEER, at=1021.0),)))
    assert RecentFile(tmp_path).read() == WarmStart((replace(PEER, at=1021.0),))
    file.keep(WarmStart((replace(PEER, at=1021.0, endpoints=()),)))
    assert RecentFile(tmp_path).read() == WarmStart((replace(PEER, at=1021.0, endpoints=()),))
    file.keep(WarmStart())
    assert RecentFile(tmp_path).read() == WarmStart()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"peers": 7}', b"\xff" * 100])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / NAME).write_bytes(damage)
    assert RecentFile(tmp_path).read() is None


def test_a_full_disk_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.new").mkdir()
    RecentFile(tmp_path).keep(WarmStart((PEER,)))
    assert not (tmp_path / NAME).exists()
