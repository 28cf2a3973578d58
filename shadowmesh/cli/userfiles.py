"""Files of users to import: CSV or JSON, checked whole before anything is sent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.model.accounts import UserImport


def read_users(file: str) -> UserImport:
    """Raises ShadowMeshError(bad_import) with a line for each entry that can't be taken."""
    from pydantic import ValidationError

    from shadowmesh.model.accounts import MOST_IMPORTED, ImportedUser, UserImport

    users, faults = list[ImportedUser](), list[str]()
    for where, entry in _entries(file):
        try:
            users.append(ImportedUser.model_validate(entry))
        except ValidationError as e:
            faults += [f"{where}: {_fault(error)}" for error in e.errors()]
    if faults:
        what = faults[0] if len(faults) == 1 else f"{len(faults)} things are wrong in {file}"
        raise _bad(what, "nobody was imported; correct them and try again", *faults)
    if not 1 <= len(users) <= MOST_IMPORTED:
        raise _bad(f"{file} has {len(users)} users", f"import 1 to {MOST_IMPORTED} at once")
    return UserImport(users=users)


def _entries(file: str) -> Iterator[tuple[str, Any]]:
    """Each with where it stands. What is empty is left out."""
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not text in UTF-8"
        raise _bad(f"{file} can't be read ({why})", "check the path") from e
    if path.suffix.lower() == ".csv":
        yield from _rows(file, text)
        return
    try:
        found = json.loads(text)
    except ValueError as e:
        raise _bad(f"{file} is no JSON ({e})", "correct it; a CSV file's name ends in .csv") from e
    if not isinstance(found, list):
        raise _bad(f"{file} is no list of users", 'write [{"email": …, "password_hash": …}, …]')
    for number, entry in enumerate(found, 1):
        yield f"entry {number}", _filled(entry) if isinstance(entry, dict) else entry


def _rows(file: str, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="too many columns", strict=True)
    try:
        for row in reader:
            yield f"line {reader.line_num}", _filled(row)
    except csv.Error as e:
        raise _bad(f"line {reader.line_num} of {file} is no CSV ({e})", "correct it") from e


def _filled(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value not in ("", None)}


def _fault(error: Any) -> str:
    """One thing that is wrong with an entry; what stands there isn't told, as it may be a secret."""
    field = ".".join(str(part) for part in error["loc"][:1])
    why = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            return f"there is no field {field[:60]!r}"
        case "string_pattern_mismatch":
            return f"{field} isn't usable"
        case _:
            return f"{field} {why[:1].lower()}{why[1:]}".strip()


def _bad(what: str, remedy: str, *details: str) -> ShadowMeshError:
    return ShadowMeshError("bad_import", what, remedy, kind=Kind.USAGE, details=details)
