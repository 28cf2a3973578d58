"""One network's map on disk: a snapshot, and after it the deltas that came since, each as it came.

A record is u32be(length) ‖ u32be(CRC-32) ‖ the JSON text of a `MapUpdate`. A change of one member in a map of thousands
so writes a kilobyte. What a crash cut off ends the reading, and the controller is asked for what is missing. Once the
deltas are as long as the snapshot, a new snapshot takes the file's place.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import MapUpdate
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.serving.files import remove_private, write_private

log = structlog.get_logger(__name__)

_HEADER = struct.Struct(">II")
_MIN_DELTAS = 64 * 1024  # bytes: shorter logs aren't worth a new snapshot


class MapLog:
    """`save` returns once it is on the disk. Both raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._order: tuple[int, int] | None = None  # of the map that the file leads to; None: it isn't known
        self._snapshot_end = 0
        self._end = 0

    def load(self) -> NetworkMap | None:
        """The newest map that is whole; None if there is none that is understood."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            found, end, snapshot_end = _replay(data)
        except MalformedError as e:
            log.warning(
                "the map on disk isn't understood; the controller will send it anew", file=str(self._path), why=str(e)
            )
            return None
        if found is not None:
            self._order, self._end, self._snapshot_end = found.order, end, snapshot_end
        return found

    def save(self, netmap: NetworkMap, update: MapUpdate) -> None:
        """Keeps a map, and the message that brought it: as short as what the file holds allows."""
        if update.delta is not None and netmap.order == self._order:
            return
        leads = update.delta is not None and self._order == (update.delta.generation, update.delta.from_serial)
        grown = self._end - self._snapshot_end
        self._order = None  # until it is written
        if leads and grown < max(_MIN_DELTAS, self._snapshot_end):
            self._append(_record(update))
        else:
            self._replace(_record(msgspec.structs.replace(update, snapshot=netmap.snapshot(), delta=None)))
        self._order = netmap.order

    def delete(self) -> None:
        """Nothing is left of it."""
        self._order = None
        remove_private(self._path)

    def _append(self, record: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, self._end)  # what a crash or a full disk left half written
            _write(descriptor, record, self._end)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._end += len(record)

    def _replace(self, record: bytes) -> None:
        write_private(self._path, record)
        self._end = self._snapshot_end = len(record)


def _record(update: MapUpdate) -> bytes:
    text = to_json(update)
    return _HEADER.pack(len(text), zlib.crc32(text)) + text


def _write(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The texts that are whole, each with the offset of its end."""
    start = 0
    while len(data) - start >= _HEADER.size:
        length, checksum = _HEADER.unpack_from(data, start)
        text = data[start + _HEADER.size : start + _HEADER.size + length]
        if len(text) < length or zlib.crc32(text) != checksum:
            return
        start += _HEADER.size + length
        yield text, start


def _replay(data: bytes) -> tuple[NetworkMap | None, int, int]:
    """The map, the end of what is whole, the end of the snapshot. Raises MalformedError."""
    found: NetworkMap | None = None
    update: MapUpdate | None = None
    end = snapshot_end = 0
    for text, end in _records(data):
        update = from_json(text, MapUpdate)
        if found is None or update.delta is None:
            found, snapshot_end = update.apply(None), end
        else:
            found = found.followed_by(update.delta)
    last = None if update is None else update.delta
    if found is not None and last is not None and found.digest.hex() != last.digest:
        raise MalformedError("its digest is wrong")  # of the last only: it covers all before
    return found, end, snapshot_end
