"""How many files and sockets this process may have open."""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """Raises RLIMIT_NOFILE's soft limit to the hard one, as getrlimit(2) allows anyone; returns what it is then.

    The soft limit is 1,024 on most systems for the sake of select(2), which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a sandbox forbids it
            return soft
    return hard
