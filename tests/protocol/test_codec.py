"""The codec where several threads use it."""

from __future__ import annotations

import subprocess
import sys

# One thread is still reading the class's annotations when the other comes with its first value.
TWO_THREADS = """
import threading
from shadowmesh.model.codec import Struct, from_builtins

other = threading.Thread(target=lambda: from_builtins({"field": "b"}, Met))

class Slow:
    def __class_getitem__(cls, _):
        if other.ident is None:
            other.start()
        other.join(0.2)
        return str

class Met(Struct):
    field: "Slow[0]"

assert from_builtins({"field": "a"}, Met).field == "a"
other.join()
"""


def test_two_threads_may_meet_a_type_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
