"""The codec where several threads use it, and what no message may say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import Challenge
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.netmap import EpochInfo

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


@pytest.mark.parametrize("wall", [-1, -1e-9, 253402300800, 1e300, "NaN", None])
def test_a_time_in_a_message_is_one_that_has_a_date(wall: object) -> None:
    """A controller's clock is applied to handshakes and dates: one beyond all dates would raise there, for every network."""
    with pytest.raises(MalformedError):
        from_json(to_json({"type": "challenge", "nonce": "", "wall": wall}), Challenge)
    good = from_json(to_json({"type": "challenge", "nonce": "", "wall": 0}), Challenge)
    assert good.wall == 0


@pytest.mark.parametrize("epoch", [-1, 2**32, 1.5])
def test_an_epoch_in_a_message_has_32_bits(epoch: object) -> None:
    with pytest.raises(MalformedError):
        from_json(to_json({"epoch": epoch, "current_from": 0}), EpochInfo)
