"""The child process's entry: `python -m shadowmesh.dataplane.python.child CONTROL TABLE`, both descriptor numbers.

It lives as long as the other end of its control socket. Keys come over that socket only.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from shadowmesh.dataplane.blas import without_threads

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15


def main(arguments: Sequence[str]) -> int:
    """Runs the pump on the descriptors named in `arguments`. Returns the exit code."""
    control_fd, table_fd = map(int, arguments)
    # The parent ends the pump by closing the socket; a terminal's or service manager's signals to the whole group must not
    # end it before its parent.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core file, no debugger: there are keys in memory
    libc.prctl(_PR_SET_NAME, b"shadowmesh-pump", 0, 0, 0)

    without_threads()
    from shadowmesh.dataplane.python.loop import Loop

    size = os.fstat(table_fd).st_size
    table = memoryview(mmap.mmap(table_fd, size)).cast("Q")
    os.close(table_fd)
    control = socket.socket(fileno=control_fd)
    loop = Loop(control, table)
    gc.collect()
    gc.freeze()
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
