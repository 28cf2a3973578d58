"""The child process's entry: `python -m shadowmesh.dataplane.native.child CONTROL TABLE`, both descriptor numbers.

Imports nothing but the extension: what this process keeps in memory is the pump's. The extension switches off core files, ignores the signals of its
group and lives as long as the other end of its control socket, without the interpreter's lock.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Runs the pump on the descriptors named in `arguments`. Returns the exit code."""
    from shadowmesh._native import run

    control_fd, table_fd = map(int, arguments)
    run(control_fd, table_fd)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
