"""Network namespaces and what runs in them, by the kernel's own calls.

A namespace is entered by a *thread* (setns(2) is per thread): sockets opened there belong to it for good, and
processes started there inherit it. So a test can hold sockets of many machines in one process.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from shadowmesh.host.namespaces import in_thread_of
from shadowmesh.model.errors import ShadowMeshError

T = TypeVar("T")

RUN = Path("/run/netns")  # where ip(8) keeps names too, so that `ip netns exec` works on the lab

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SLAVE, _MS_SHARED = 0x1000, 0x4000, 0x80000, 0x100000
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, flags: int, kind: str = "") -> None:
    _check(_libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, None), f"mount {target}")


def _share_run() -> None:
    """Makes /run/netns a shared mount, as ip(8) does: names made later are then seen, and gone, everywhere."""
    RUN.mkdir(parents=True, exist_ok=True)
    try:
        _mount("", RUN, _MS_SHARED | _MS_REC)
    except OSError:
        _mount(str(RUN), RUN, _MS_BIND | _MS_REC)
        _mount("", RUN, _MS_SHARED | _MS_REC)


def create(name: str) -> None:
    """Makes the named namespace with loopback down. Raises OSError (EPERM without CAP_SYS_ADMIN, EEXIST)."""
    _share_run()
    target = RUN / name
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
    try:
        with _here_kept():
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            _mount("/proc/thread-self/ns/net", target, _MS_BIND)
    except OSError:
        target.unlink()
        raise


def delete(name: str) -> None:
    """Takes the name away; the kernel frees the namespace with its last process and socket. No error if gone."""
    target = RUN / name
    while _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0:
        pass
    target.unlink(missing_ok=True)


def names(pattern: str) -> list[str]:
    """Names of existing namespaces that match the whole regular expression."""
    if not RUN.is_dir():
        return []
    return sorted(p.name for p in RUN.iterdir() if re.fullmatch(pattern, p.name))


@contextmanager
def _here_kept() -> Iterator[None]:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        try:
            _check(_libc.setns(here, _CLONE_NEWNET), "setns back")
        finally:
            os.close(here)


def _enter(name: str) -> None:
    fd = os.open(RUN / name, os.O_RDONLY)
    try:
        _check(_libc.setns(fd, _CLONE_NEWNET), f"setns {name}")
    finally:
        os.close(fd)


@contextmanager
def entered(name: str) -> Iterator[None]:
    """The calling thread is in the namespace inside the `with`. Not to be held across an await."""
    with _here_kept():
        _enter(name)
        yield


def call(name: str, function: Callable[[], T]) -> T:
    """Runs `function` in a thread of its own inside the namespace; returns its value or raises what it raised."""
    return in_thread_of(name, _enter, function)


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    hostname: str,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    text: bool = False,
    new_session: bool = False,
) -> subprocess.Popen[Any]:
    """Starts a program inside: own network, own hostname, and a /sys that shows that network (as `ip netns exec`)."""

    def body() -> subprocess.Popen[Any]:
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS), "unshare")
        _mount("", Path("/"), _MS_SLAVE | _MS_REC)
        _libc.umount2(b"/sys", _MNT_DETACH)
        with suppress(OSError):  # a container may forbid it; only /sys/class/net would differ
            _mount("sysfs", Path("/sys"), 0, "sysfs")
        encoded = hostname.encode()
        _check(_libc.sethostname(encoded, len(encoded)), "sethostname")
        return subprocess.Popen(
            list(argv),
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            start_new_session=new_session,
        )

    return call(name, body)


def write_sysctl(values: Mapping[str, object]) -> None:
    """Sets sysctls of the calling thread's namespace; keys as paths below /proc/sys/net. Absent ones are skipped."""
    for key, value in values.items():
        with suppress(FileNotFoundError):
            Path("/proc/sys/net", key).write_text(str(value))


def run_nft(name: str, ruleset: str) -> None:
    """Loads an nftables script in the namespace, atomically. Raises ShadowMeshError with nft's own words."""
    with entered(name):
        done = subprocess.run(["nft", "-f", "-"], input=ruleset, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ShadowMeshError(
            "lab_nft", f"nft refused rules in {name}: {done.stderr.strip()}", "nftables ≥ 1.0 with NAT is needed"
        )


def inode(name: str) -> int:
    """What identifies the namespace in /proc/PID/ns/net. Raises FileNotFoundError."""
    return (RUN / name).stat().st_ino


def processes(namespaces: Iterable[str]) -> dict[int, str]:
    """Process id → namespace name, of every process whose network is one of these."""
    wanted: dict[int, str] = {}
    for name in namespaces:
        with suppress(FileNotFoundError):
            wanted[inode(name)] = name
    found: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile, or is a zombie
                number = _network_of(int(entry.name))
                if number in wanted:
                    found[int(entry.name)] = wanted[number]
    return found


def _network_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def end_processes(namespaces: Sequence[str], *, grace: float = 3.0) -> int:
    """Ends every process inside: SIGTERM, after `grace` seconds SIGKILL, until none is left. Returns how many.

    The calling process and its ancestors are spared: they may have entered a namespace on purpose.
    """
    spared = _ancestry()
    ended: set[int] = set()
    deadline = time.monotonic() + grace
    while True:
        alive = {pid: ns for pid, ns in processes(namespaces).items() if pid not in spared}
        if not alive:
            return len(ended)
        late = time.monotonic() >= deadline
        handles: list[int] = []
        for pid, name in alive.items():
            with suppress(OSError):  # it ended meanwhile
                handle = os.pidfd_open(pid)
                handles.append(handle)
                # its id may have gone to another process since the scan; what the handle names can't change any more
                if _network_of(pid) == inode(name) and (late or pid not in ended):
                    signal.pidfd_send_signal(handle, signal.SIGKILL if late else signal.SIGTERM)
                    ended.add(pid)
        _wait_any(handles, 1.0 if late else max(0.0, deadline - time.monotonic()))
        for handle in handles:
            os.close(handle)


def _wait_any(handles: Sequence[int], timeout: float) -> None:
    """Waits until one of the processes behind these pidfds has ended."""
    poller = select.poll()
    for handle in handles:
        poller.register(handle, select.POLLIN)
    if handles:
        poller.poll(timeout * 1000)


def _ancestry() -> set[int]:
    spared: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in spared:
        spared.add(pid)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        pid = int(fields[1])
    return spared
