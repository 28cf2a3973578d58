"""numpy's linear algebra, which nothing here uses."""

from __future__ import annotations

import os


def without_threads() -> None:
    """Before numpy is imported: else its library starts a thread for each core, which spins for 0.1 s before it sleeps."""
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
