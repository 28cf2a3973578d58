"""The console scripts. `--version` is answered before anything is imported."""

from __future__ import annotations

import gc
import os
import sys

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        from shadowmesh import __version__

        print(f"shadowmesh {__version__}")
        return
    if sys.argv[1:2] == ["__pump"]:  # how the single binary becomes its own pump: dataplane.process
        from importlib import import_module

        child = import_module(f"shadowmesh.dataplane.{sys.argv[2]}.child")
        raise SystemExit(child.main(sys.argv[3:]))
    os.environ["PATH"] = search_path(os.environ.get("PATH", ""))
    gc.disable()  # what is imported stays; to look through it again and again, and at the exit, is an eighth of a short call
    from shadowmesh.cli.main import run

    run(sys.argv[1:], _imported)


def search_path(path: str) -> str:
    """PATH with the system's directories at its end: su(1), cron and a bare init leave out those that have ip and nft."""
    kept = [directory for directory in path.split(":") if directory]
    return ":".join(dict.fromkeys([*kept, *SYSTEM_PATH]))


def _imported() -> None:
    gc.freeze()
    gc.enable()


def daemon_main() -> None:
    """`shadowmesh-daemon register|status`: the alias that v0.2.0's users know."""
    if sys.argv[1:2] in (["run"], ["install"]):
        sys.argv[1:1] = ["daemon"]
    if sys.argv[1:2] == ["status"]:
        sys.argv[2:2] = ["--summary"]
    main()


if __name__ == "__main__":
    main()
