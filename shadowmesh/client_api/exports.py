"""Files to keep what a controller has logged: JSON lines, CSV, SQLite."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import escaped, json_text

if TYPE_CHECKING:
    from pydantic import BaseModel

FORMATS = ("lines", "csv", "sqlite")
_BY_SUFFIX = {
    ".jsonl": "lines", ".ndjson": "lines", ".json": "lines", ".log": "lines", ".csv": "csv",
    ".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite",
}  # fmt: skip
_AT_ONCE = 5000
_FORMULAS = frozenset("=+-@＝＋－＠")  # how a formula begins, in full width too


def export(
    path: Path,
    output: str | None,
    table: str,
    kind: type[BaseModel],
    found: Iterable[BaseModel],
    *,
    replace: bool = False,
) -> int:
    """Writes all of `found` (each of `kind`) to a new file that its owner alone may read; it is there when it is whole.

    `output` is one of FORMATS, else as the file's name ends. `replace`: a file that is there gives way to it. Returns how many
    there were. Raises ShadowMeshError.
    """
    how = output or _BY_SUFFIX.get(path.suffix.lower())
    if how is None:
        raise ShadowMeshError(
            "bad_option",
            f"the name {path.name!r} doesn't say what the file is to be",
            "end it in .jsonl, .csv or .db, or say --format lines, csv or sqlite",
            kind=Kind.USAGE,
        )
    if not replace:
        check_new(path)
    # The first line is asked for before a file is made: who may not read, or is not signed in, leaves none behind.
    lines = iter(found)
    first = next(lines, None)
    count = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count
        for line in chain(() if first is None else (first,), lines):
            count += 1
            yield line.model_dump(mode="json")

    writers: dict[str, Callable[[Path, str, type[BaseModel], Iterator[dict[str, Any]]], None]] = {
        "lines": _lines, "csv": _csv, "sqlite": _sqlite,
    }  # fmt: skip
    with _new_file(path) as part:
        writers[how](part, table, kind, rows())
    return count


def check_new(path: Path) -> None:
    """Raises ShadowMeshError, file_exists."""
    if path.exists():
        raise ShadowMeshError(
            "file_exists", f"{path} is there already", "give another name, or move it away", kind=Kind.CONFLICT
        )


def write_new(path: Path, data: bytes, *, replace: bool = False) -> None:
    """A new file that its owner alone may read, whole or not at all. `replace`: in the place of one that is there. Raises
    ShadowMeshError."""
    if not replace:
        check_new(path)
    with _new_file(path) as part, part.open("wb") as file:
        file.write(data)
        _to_disk(file)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file beside it, which takes its name once the block has ended well."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield part
        part.rename(path)
    except OSError as e:
        raise ShadowMeshError(
            "file_not_written", f"{path} can't be written ({e.strerror})", "give a place that can", kind=Kind.FAILED
        ) from e
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def csv_text(row: Iterable[object]) -> str:
    """One line of CSV. What a terminal or a spreadsheet would obey is text in it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(_cell(value) for value in row)
    return escaped(text.getvalue())


def _cell(value: object) -> object:
    if isinstance(value, (dict, list)):
        return json_text(value)
    # Spreadsheets take what begins so for a formula; names from outside may.
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULAS else value


def _lines(path: Path, _table: str, _kind: type[BaseModel], rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json_text(row) + "\n" for row in rows)
        _to_disk(file)


def _csv(path: Path, _table: str, kind: type[BaseModel], rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_text(kind.model_fields) + "\n")
        file.writelines(csv_text(row.values()) + "\n" for row in rows)
        _to_disk(file)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sqlite(path: Path, table: str, kind: type[BaseModel], rows: Iterator[dict[str, Any]]) -> None:
    """A table of the fields, the first of them its key; what has parts is JSON text. Times are RFC 3339, sortable."""
    import sqlite3

    from sqlite_utils import Database
    from sqlite_utils.db import Table

    database = Database(sqlite3.connect(path))
    try:
        types = {name: _type_of(field.annotation) for name, field in kind.model_fields.items()}
        made = database[table]
        assert isinstance(made, Table)
        made.create(types, pk=next(iter(types)))
        made.insert_all(map(_flat, rows), batch_size=_AT_ONCE)
        made.create_index(["timestamp" if "timestamp" in types else "at"])
    except sqlite3.OperationalError as e:
        raise ShadowMeshError(
            "file_not_written", f"{path.name} can't be written ({e})", "give a place that can", kind=Kind.FAILED
        ) from e
    finally:
        database.close()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
        for name, value in row.items()
    }


def _type_of(annotation: Any) -> type:
    """As far as SQLite tells types apart."""
    if annotation is int:
        return int
    return float if annotation in (float, float | None) else str
