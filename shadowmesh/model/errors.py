"""One family of errors that carries what a person needs: what happened and what to do.

Rooms raise these (or subclasses). They become exit codes in `cli` and problem documents in
`controller.edge`, in one place each.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class Kind(Enum):
    """What sort of failure it is; the value is the exit code of `contract` (see `docs/cli.md`)."""

    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    WAITING = 7  # for someone's approval


class ShadowMeshError(Exception):
    """A failure to tell a person about: `what` happened; `remedy`, what to do.

    `code` is stable and machine-readable (`invite_expired`); scripts may hold on to it. `details`: a line for each thing
    that is wrong, where several may be.
    """

    def __init__(
        self, code: str, what: str, remedy: str = "", *, kind: Kind = Kind.FAILED, details: Sequence[str] = ()
    ) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.code = code
        self.what = what
        self.remedy = remedy
        self.kind = kind
        self.details = tuple(details)


class MalformedError(ValueError):
    """Bytes or text from outside that are not what they claim to be. Codecs raise this and nothing else."""
