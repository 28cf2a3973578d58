"""A map on disk: a change costs the change, and whatever a crash leaves of the file, it is a map that once was."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mapkit import a_map, update_of

from shadowmesh.daemon import maplog
from shadowmesh.daemon.maplog import MapLog
from shadowmesh.daemon.state import NetworkRecord, NetworkSecrets
from shadowmesh.model.devicelink import MapUpdate
from shadowmesh.model.netmap import MapDelta, NetworkMap


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.log"


@pytest.fixture
def record(joined: tuple[NetworkRecord, NetworkSecrets]) -> NetworkRecord:
    return joined[0]


def maps(record: NetworkRecord, number: int, *always: str) -> list[NetworkMap]:
    """Serials 1, 2, …: in each somebody else is there."""
    return [a_map(record.network_id, record, *always, f"host{n}", serial=n) for n in range(1, number + 1)]


def whole(record: NetworkRecord, netmap: NetworkMap) -> MapUpdate:
    return update_of(record, snapshot=netmap.snapshot())


def delta(record: NetworkRecord, old: NetworkMap, new: NetworkMap) -> MapUpdate:
    return update_of(record, delta=MapDelta.between(old, new))


def save_all(log: MapLog, record: NetworkRecord, serials: list[NetworkMap]) -> None:
    log.save(serials[0], whole(record, serials[0]))
    for old, new in pairwise(serials):
        log.save(new, delta(record, old, new))


def test_a_change_writes_itself_and_not_the_map(path: Path, record: NetworkRecord) -> None:
    everybody = [f"member-with-a-long-name-{n}" for n in range(200)]
    log, serials = MapLog(path), maps(record, 20, *everybody)
    log.save(serials[0], whole(record, serials[0]))
    first = path.stat().st_size
    for old, new in pairwise(serials):
        before = path.stat().st_size
        log.save(new, delta(record, old, new))
        assert 0 < path.stat().st_size - before < 2048 < first
    assert MapLog(path).load() == serials[-1]


def test_what_says_nothing_new_writes_nothing(path: Path, record: NetworkRecord) -> None:
    log, (only,) = MapLog(path), maps(record, 1)
    log.save(only, whole(record, only))
    before = path.read_bytes()
    log.save(only, delta(record, only, only))
    assert path.read_bytes() == before


def test_cut_off_anywhere_it_is_a_map_that_was_and_goes_on(path: Path, record: NetworkRecord) -> None:
    serials = maps(record, 4, "a", "b")
    save_all(MapLog(path), record, serials)
    data, seen = path.read_bytes(), set()
    for end in range(0, len(data) + 1, 7):
        path.write_bytes(data[:end])
        log = MapLog(path)
        found = log.load()
        assert found is None or found in serials
        seen.add(0 if found is None else found.serial)
        log.save(serials[3], delta(record, found, serials[3]) if found is not None else whole(record, serials[3]))
        assert MapLog(path).load() == serials[3]
    assert seen == {0, 1, 2, 3}


def test_a_damaged_byte_ends_the_reading_there(path: Path, record: NetworkRecord) -> None:
    serials = maps(record, 3)
    log = MapLog(path)
    save_all(log, record, serials[:2])
    end = path.stat().st_size
    log.save(serials[2], delta(record, serials[1], serials[2]))
    data = bytearray(path.read_bytes())
    data[end + 20] ^= 1
    path.write_bytes(data)
    assert MapLog(path).load() == serials[1]


def test_what_isnt_understood_is_no_map_and_is_replaced_by_the_next(path: Path, record: NetworkRecord) -> None:
    (first,) = maps(record, 1)
    for text in (b"null", b'{"type":"mapupdate"}', b"\xff"):
        path.write_bytes(maplog._HEADER.pack(len(text), maplog.zlib.crc32(text)) + text)
        log = MapLog(path)
        assert log.load() is None
        log.save(first, whole(record, first))
        assert MapLog(path).load() == first


def test_deltas_as_long_as_the_snapshot_become_one(
    path: Path, record: NetworkRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maplog, "_MIN_DELTAS", 4096)
    serials = maps(record, 60, "a", "b")
    log, sizes = MapLog(path), []
    log.save(serials[0], whole(record, serials[0]))
    for old, new in pairwise(serials):
        log.save(new, delta(record, old, new))
        sizes.append(path.stat().st_size)
    assert max(sizes) < 8192 and min(sizes[10:]) < 4096, "it grows and is made small again"
    assert MapLog(path).load() == serials[-1]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_full_disk_loses_no_map_and_the_next_save_makes_it_good(
    path: Path, record: NetworkRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    serials = maps(record, 4)
    log = MapLog(path)
    save_all(log, record, serials[:2])

    def full(descriptor: int, data: bytes = b"", offset: int = 0) -> Any:
        os.pwrite(descriptor, data[:30], offset)
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(maplog, "_write", full)
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            log.save(serials[2], delta(record, serials[1], serials[2]))
        assert MapLog(path).load() == serials[1]
        with pytest.raises(OSError, match="no space"):
            log.save(serials[3], delta(record, serials[2], serials[3]))
    assert MapLog(path).load() == serials[1]
    log.save(serials[3], delta(record, serials[2], serials[3]))
    assert MapLog(path).load() == serials[3]


def test_only_its_owner_reads_it(path: Path, record: NetworkRecord) -> None:
    (only,) = maps(record, 1)
    MapLog(path).save(only, whole(record, only))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_left_no_fuller(path: Path, record: NetworkRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = maps(record, 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        MapLog(path).save(only, whole(record, only))
    assert list(path.parent.iterdir()) == []


def test_nothing_is_left_of_a_network_that_ended_while_its_map_was_written(path: Path, record: NetworkRecord) -> None:
    log, (only,) = MapLog(path), maps(record, 1)
    log.save(only, whole(record, only))
    path.with_name(f".{path.name}.new").write_bytes(path.read_bytes())  # a crash left it
    log.delete()
    assert list(path.parent.iterdir()) == []
