"""Named network namespaces, as ip-netns(8) keeps them. A namespace is entered by a thread (setns(2)): descriptors made there belong to it for good."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from shadowmesh.model.errors import Kind, ShadowMeshError

T = TypeVar("T")

NAMES: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000


def check_name(name: str) -> str:
    """`name`, if it can be one of a namespace. Raises ShadowMeshError(USAGE)."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name) is None:
        raise ShadowMeshError(
            "bad_netns", f"{name[:80]!r} is no name of a network namespace", "see `ip netns list`", kind=Kind.USAGE
        )
    return name


def enter(name: str) -> None:
    """Takes the calling thread into the namespace, for good. Raises ShadowMeshError: netns_unknown (NOT_FOUND), netns_refused."""
    try:
        fd = os.open(NAMES / check_name(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as e:
        raise ShadowMeshError(
            "netns_unknown", f"there is no network namespace {name}", f"make it with `ip netns add {name}`",
            kind=Kind.NOT_FOUND,
        ) from e  # fmt: skip
    except OSError as e:
        raise _refused(name, e.errno or 0) from e
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise _refused(name, ctypes.get_errno())
    finally:
        os.close(fd)


def inside(name: str | None, work: Callable[[], T]) -> T:
    """What `work()` returns or raises in the namespace; None: in the caller's own. It is to be short, as the caller waits."""
    return work() if name is None else in_thread_of(name, enter, work)


def in_thread_of(name: str, enter: Callable[[str], None], work: Callable[[], T]) -> T:
    """As `inside`, in a thread of its own, which comes into the namespace by `enter`."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            enter(name)
            done.append(work())
        except BaseException as e:  # carried over to the caller's thread, whatever it is
            failed.append(e)

    thread = threading.Thread(target=run, name=f"in {name}", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _refused(name: str, number: int) -> ShadowMeshError:
    return ShadowMeshError(
        "netns_refused", f"the network namespace {name} can't be entered ({os.strerror(number)})",
        "the daemon needs CAP_SYS_ADMIN for it", kind=Kind.NOT_ALLOWED,
    )  # fmt: skip
