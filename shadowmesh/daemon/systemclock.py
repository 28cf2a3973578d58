"""The process's clocks, read in one place."""

from __future__ import annotations

import time

from shadowmesh.model.clock import Now


def now() -> Now:
    return Now(boot=time.clock_gettime(time.CLOCK_BOOTTIME), wall=time.time())
