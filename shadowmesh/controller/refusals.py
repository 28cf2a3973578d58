"""Refusals, by the kind of failure that they are: what the edge makes statuses of, and the command line exit codes."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from itertools import accumulate

from shadowmesh.model.errors import Kind, ShadowMeshError

MOST_NAMES = 2000  # that are looked through for what was meant
_MOST_PAIRS = 200_000  # of characters that are held against each other: some milliseconds, in whoever's transaction


def not_found(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.NOT_FOUND)


def unknown(code: str, what: str, name: str, known: Collection[str], command: str) -> ShadowMeshError:
    """Of a `name` that isn't among the `known` ones, which who asks may see; `command` lists them."""
    room = _MOST_PAIRS // max(1, len(name[:80]))
    looked_through = [word.lower() for word, end in zip(known, accumulate(map(len, known)), strict=True) if end <= room]
    near = get_close_matches(name[:80].lower(), looked_through, n=1, cutoff=0.7)
    meant = next((word for word in known if near and word.lower() == near[0]), None)
    guess = "" if meant is None else f"did you mean {meant}? "
    return not_found(code, what, f"{guess}`{command}` names them")


def conflict(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.CONFLICT)


def not_allowed(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.NOT_ALLOWED)


def usage(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.USAGE)
