"""Namespaces and processes of the benchmark: two hosts and a veth between them."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SPACES = A, B = "smbench-a", "smbench-b"
LOCK = Path("/run/shadowmesh-bench.lock")
OUTER = ("10.99.0.1", "10.99.0.2")
NO_OFFLOADS = ("gso", "off", "gro", "off", "tso", "off", "tx-udp-segmentation", "off")


@contextmanager
def alone() -> Iterator[None]:
    """One benchmark at a time on this machine. Raises SystemExit."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("error: another benchmark runs on this machine; wait for its end") from None
        yield


def run(*command: str, stdin: str | None = None, timeout: float = 60.0) -> str:
    """A command's output. Raises SystemExit with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, input=stdin, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{' '.join(command)} didn't end in {timeout:.0f} s") from None
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def inside(space: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", space, *command]


def clear(spaces: Sequence[str]) -> None:
    """Removes what a killed run left. Raises SystemExit if it is in use."""
    for space in spaces:
        if Path("/run/netns", space).exists():
            if run("ip", "netns", "pids", space).strip():
                raise SystemExit(f"error: processes run in the namespace {space}; another benchmark's?")
            run("ip", "netns", "del", space)


@contextmanager
def pair(offloads: bool) -> Iterator[None]:
    """Fresh namespaces, gone afterwards; `offloads` of the underlay on or off."""
    clear(SPACES)
    made = []
    try:
        for space in SPACES:
            run("ip", "netns", "add", space)
            made.append(space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "link", "add", "up0", "netns", A, "type", "veth", "peer", "name", "up0", "netns", B)
        for space, address in zip(SPACES, OUTER, strict=True):
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "up0")
            run("ip", "-n", space, "link", "set", "up0", "up")
            if not offloads:
                run(*inside(space, "ethtool", "-K", "up0", *NO_OFFLOADS))
        yield
    finally:
        for space in made:
            run("ip", "netns", "del", space)


@contextmanager
def process(
    space: str,
    *command: str,
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
    log: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process inside, with its standard output as a pipe (into `log` where that is given), ended afterwards."""
    sink = log.open("w") if log else None
    started = subprocess.Popen(
        inside(space, *command),
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=sink or subprocess.PIPE,
        stderr=subprocess.STDOUT if sink else subprocess.DEVNULL,
        text=True,
        env=env,
    )
    try:
        yield started
    finally:
        if sink:
            sink.close()
        if started.stdin:
            started.stdin.close()  # the polite way to end those that have it
        else:
            started.terminate()
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        if started.stdout:
            started.stdout.close()


def until(check: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Waits for it. Raises SystemExit."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def answers(space: str, address: str) -> bool:
    return not subprocess.run(
        inside(space, "ping", "-c", "1", "-W", "1", "-q", address),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode
