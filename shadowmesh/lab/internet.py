"""A whole internet on one machine: brings a plan up as namespaces, changes it, breaks it, takes it down.

Everything is found again by other processes: the state in a file, namespaces by their names, processes by the
namespace that they run in. So `Lab.attach(id)` works from anywhere, and `down` needs neither the file nor the process
that made the lab.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import msgspec

from shadowmesh.lab import build, guard, netns
from shadowmesh.lab.capture import Capture, Match
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import PREFIX, LabSpec, LabState, Machine, check_id, free_host_index, plan, with_carrier_for
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError

T = TypeVar("T")
DIRECTORY = Path("/run/shadowmesh-lab")
_OUTSIDE = {
    "SHADOWMESH_CONTROLLER",
    "SHADOWMESH_TOKEN",
    "SHADOWMESH_FINGERPRINT",
    "SHADOWMESH_STATE_DIR",
    "SHADOWMESH_DATA_DIR",
}


def default_directory() -> Path:
    """Where labs keep their state: $SHADOWMESH_LAB_DIR or /run/shadowmesh-lab."""
    return Path(os.environ.get("SHADOWMESH_LAB_DIR", DIRECTORY))


def missing() -> str | None:
    """What this machine lacks to have a lab, as a sentence for people; None if nothing."""
    if sys.platform != "linux":
        return "a lab needs Linux"
    if os.geteuid() != 0:
        return "a lab needs root (network namespaces)"
    if shutil.which("nft") is None:
        return "a lab needs nft (on Debian: apt-get install nftables)"
    return None


class Host:
    """One machine of a lab: runs programs, functions and sockets inside it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab = lab
        self.name = name
        self.namespace = lab.state.namespace(name)

    @property
    def machine(self) -> Machine:
        return self._lab.state.machine(self.name)

    @property
    def address(self) -> str:
        """Its own IPv4 address: on its LAN, or public."""
        return str(self._lab.state.address(self.machine))

    @property
    def address6(self) -> str | None:
        found = self._lab.state.address6(self.machine)
        return None if found is None else str(found)

    @property
    def outer_address(self) -> str:
        """The address under which the internet sees it."""
        return str(self._lab.state.outer_address(self.machine))

    @property
    def directory(self) -> Path:
        """A directory of its own, 0711, that goes when the lab goes."""
        path = Path(self._lab.state.directory, self._lab.id, self.name)
        path.mkdir(parents=True, exist_ok=True, mode=0o711)
        return path

    @property
    def state_directory(self) -> Path:
        """Where its role keeps its state: below `directory` for a controller or relay, which make it themselves."""
        role = self.machine.role
        return self.directory / role if role in ("controller", "relay") else self.directory

    def environment(self) -> dict[str, str]:
        """The caller's environment, with this machine's state directory and this Python's programs on the PATH.

        What would lead ShadowMesh's commands to the caller's own daemon or controller is left out.
        """
        own = {"SHADOWMESH_LAB": self._lab.id, "SHADOWMESH_LAB_HOST": self.name}
        role = self.machine.role
        own["SHADOWMESH_DATA_DIR" if role in ("controller", "relay") else "SHADOWMESH_STATE_DIR"] = str(
            self.state_directory
        )
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        kept = {key: value for key, value in os.environ.items() if key not in _OUTSIDE}
        return {**kept, "PATH": path, **own}

    def popen(
        self,
        argv: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        new_session: bool = True,
    ) -> subprocess.Popen[Any]:
        """Starts a program; it ends with the lab. `log` takes its output (both kinds, appended); `env` adds to its environment."""
        environment = {**self.environment(), **(env or {})}

        def start(out: int | IO[Any] | None, err: int | IO[Any] | None) -> subprocess.Popen[Any]:
            return netns.spawn(
                self.namespace, argv, hostname=self.name, env=environment, cwd=cwd,
                stdin=stdin, stdout=out, stderr=err, text=text, new_session=new_session,
            )  # fmt: skip

        if log is not None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "ab") as out:
                process = start(out if stdout is None else stdout, out if stderr is None else stderr)
        else:
            process = start(stdout, stderr)
        self._lab.children.append(process)
        return process

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 - the name that subprocess.run has
        timeout: float = 30.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end with its output as text. Raises CalledProcessError (`check`) and TimeoutExpired."""
        process = self.popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        finally:
            self._lab.children.remove(process)
        if check and process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(argv), out, err)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def run_in(self, function: Callable[[], T]) -> T:
        """Runs a function of this process in a thread that is inside; its value or error comes back."""
        return netns.call(self.namespace, function)

    def socket(
        self, kind: socket.SocketKind = socket.SOCK_DGRAM, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        """A socket that belongs to this machine and can be used from any thread. The caller closes it."""
        with netns.entered(self.namespace):
            return socket.socket(family, kind)

    def capture(self, match: Match | None = None, *, interface: str | None = None) -> Capture:
        """Counts packets as they pass this machine's interfaces, while inside the `with`. See `capture.Capture`."""
        return Capture(self.namespace, match, interface)

    def processes(self) -> list[int]:
        return sorted(netns.processes([self.namespace]))


class Lab:
    """A lab: made from a plan, or attached to. As a context manager it is up inside the `with` and gone after it.

    A guard process takes the lab down too when this process dies inside the `with`, even by kill -9.
    """

    def __init__(self, spec: LabSpec, lab_id: str = "lab", directory: Path | None = None) -> None:
        self.state = plan(spec, lab_id, str(directory or default_directory()))
        self.children: list[subprocess.Popen[Any]] = []
        self._guard: int | None = None

    @classmethod
    def attach(cls, lab_id: str = "lab", directory: Path | None = None) -> Lab:
        """The lab that is up under this id. Raises ShadowMeshError (no such thing)."""
        path = _state_file(check_id(lab_id), directory or default_directory())
        lab = cls.__new__(cls)
        lab.children = []
        lab._guard = None
        try:
            lab.state = from_json(path.read_bytes(), LabState)
        except FileNotFoundError:
            raise ShadowMeshError(
                "lab_not_up", f"no lab {lab_id!r} is up", "start one with `shadowmesh lab up`", kind=Kind.NOT_FOUND
            ) from None
        except MalformedError as e:
            raise ShadowMeshError(
                "lab_state", f"the state in {path} can't be read ({e})", "run `shadowmesh lab down` and start again"
            ) from e
        return lab

    @property
    def id(self) -> str:
        return self.state.id

    def host(self, name: str) -> Host:
        """A host by its name (h1, relay1, controller1, public1). Raises ShadowMeshError (no such thing)."""
        self.state.machine(name)
        return Host(self, name)

    def hosts(self) -> list[Host]:
        return [Host(self, m.name) for m in self.state.machines]

    # up and down

    def up(self, *, guarded: bool = False) -> None:
        """Makes everything. `guarded`: taken down when this process ends in whatever way. Nothing remains on failure.

        Raises ShadowMeshError: something is missing on this machine, or a lab of this id is up already (conflict).
        """
        lacking = missing()
        if lacking:
            raise ShadowMeshError(
                "lab_unavailable", lacking, "run it as root on a Linux machine that has nft",
                kind=Kind.FAILED if os.geteuid() == 0 else Kind.NOT_ALLOWED,
            )  # fmt: skip
        directory = Path(self.state.directory)
        with _locked(self.id, directory):
            if netns.names(_pattern(self.id)) or _state_file(self.id, directory).exists():
                raise ShadowMeshError(
                    "lab_is_up", f"a lab {self.id!r} is up, or was left behind",
                    f"end it with `shadowmesh lab down --lab {self.id}`", kind=Kind.CONFLICT,
                )  # fmt: skip
            if guarded:
                self._guard = guard.start(lambda: down(self.id, directory))
            try:
                self._save()
                with _uninterrupted():
                    build.everything(self.state)
            except BaseException:
                _remove(self.id, directory)
                self._dismiss_guard()
                raise

    def down(self) -> None:
        """Ends every process inside and removes everything. No error if nothing is there."""
        down(self.id, Path(self.state.directory))
        self._reap()
        self._dismiss_guard()

    def keep(self) -> None:
        """Leaves the lab up after this process, also when the `with` ends: the guard is dismissed."""
        self._dismiss_guard()
        self._kept = True

    _kept = False

    def __enter__(self) -> Lab:
        self.up(guarded=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            self.down()

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            guard.dismiss(self._guard)
            self._guard = None

    def _reap(self) -> None:
        for child in self.children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
        self.children.clear()

    # changes

    def nat(self, site: str, nat: NatType, *, carrier: str | None = None) -> None:
        """Gives a site's router another type while it runs. To and from `none` its hosts get other addresses."""

        def change(state: LabState) -> LabState:
            old = state.site(site)
            state, name = with_carrier_for(state, old.index, nat, carrier)
            state = state.with_site(msgspec.structs.replace(old, nat=nat, carrier=name))
            if old.carrier and all(s.carrier != old.carrier for s in state.sites):
                state = state.without_carrier(old.carrier)
            return state

        self._change(change, lambda old, new: build.change_nat(old, new, site))

    def reboot(self, site: str, *, new_address: bool = False, carrier: bool = False) -> None:
        """Restarts a router: forgets its connections, gives out ports of another block, perhaps has another address.

        `carrier`: the carrier's NAT above the site instead of the site's own.
        """

        def change(state: LabState) -> LabState:
            old = state.site(site)
            if carrier:
                if old.carrier is None:
                    raise ShadowMeshError(
                        "lab_carrier", f"{site} has no carrier", "only cgnat sites have", kind=Kind.USAGE
                    )
                above = state.carrier(old.carrier)
                return state.with_carrier(msgspec.structs.replace(above, life=above.life + 1))
            if new_address and old.carrier is not None:
                raise ShadowMeshError(
                    "lab_carrier", f"{site} has its carrier's address", "that can't be renumbered", kind=Kind.USAGE
                )
            return state.with_site(
                msgspec.structs.replace(old, life=old.life + 1, renumbered=old.renumbered + int(new_address))
            )

        self._change(change, lambda old, new: build.reboot(old, new, site, carrier=carrier))

    def forget(self, site: str) -> None:
        """Lets every mapping of a site's NATs expire now, as idle time would."""
        self._change(lambda state: state, lambda _old, new: build.forget(new, site))

    def roam(self, host: str, site: str) -> None:
        """Moves a host to another site's LAN: same interface, new address and router."""

        def change(state: LabState) -> LabState:
            machine = state.machine(host)
            if machine.site is None:
                raise ShadowMeshError("lab_roam", f"{host} is a public host", "only h1, h2, … roam", kind=Kind.USAGE)
            state.site(site)
            if machine.site == site:
                return state
            return state.with_machine(msgspec.structs.replace(machine, site=site, index=free_host_index(state, site)))

        self._change(change, lambda old, new: build.roam(old, new, host))

    # faults

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """No packet gets from `a` to `b`, and (unless one_way) none back, between their outer addresses."""
        pairs = ((a, b),) if one_way else ((a, b), (b, a))

        def change(state: LabState) -> LabState:
            state.machine(a), state.machine(b)
            return _with_faults(state, cuts=(*(p for p in state.faults.cuts if p not in pairs), *pairs))

        self._change(change)

    def loss(self, site: str, percent: float) -> None:
        """Loses so many percent of the packets each way between the site (or public host) and the internet; 0 ends it."""
        if not 0 <= percent <= 100:
            raise ShadowMeshError("lab_loss", f"{percent} is no percentage", "give 0 to 100", kind=Kind.USAGE)

        def change(state: LabState) -> LabState:
            return _with_faults(state, loss=_put(state.faults.loss, state.end_of(site), percent or None))

        self._change(change)

    def block_udp(self, site: str, *, blocked: bool = True) -> None:
        """No UDP between the site (or public host) and the internet."""

        def change(state: LabState) -> LabState:
            end = state.end_of(site)
            others = tuple(n for n in state.faults.udp_blocked if n != end)
            return _with_faults(state, udp_blocked=(*others, end) if blocked else others)

        self._change(change)

    def mtu(self, site: str, size: int | None) -> None:
        """A black hole for packets above `size` bytes between the site (or public host) and the internet; None ends it."""
        if size is not None and not 576 <= size <= 1500:
            raise ShadowMeshError("lab_mtu", f"{size} is no MTU for a lab", "give 576 to 1500", kind=Kind.USAGE)

        def change(state: LabState) -> LabState:
            return _with_faults(state, mtu=_put(state.faults.mtu, state.end_of(site), size))

        self._change(change)

    def rate(self, site: str, mbit: float | None) -> None:
        """A bottleneck of so many megabits per second each way; None ends it."""
        if mbit is not None and mbit <= 0:
            raise ShadowMeshError("lab_rate", f"{mbit} is no rate", "give megabits per second", kind=Kind.USAGE)

        def change(state: LabState) -> LabState:
            return _with_faults(state, rate=_put(state.faults.rate, state.end_of(site), mbit))

        self._change(change)

    def heal(self) -> None:
        """Ends all faults (not reboots, roaming and types of NAT: those are how the world is now)."""
        self._change(lambda state: _with_faults(state, cuts=(), loss={}, udp_blocked=(), mtu={}, rate={}))

    # keeping state

    def _change(
        self, change: Callable[[LabState], LabState], apply: Callable[[LabState, LabState], None] | None = None
    ) -> None:
        directory = Path(self.state.directory)
        Lab.attach(self.id, directory)  # a lab that has gone gets no lock file any more
        with _locked(self.id, directory):
            self.state = old = Lab.attach(self.id, directory).state
            self.state = change(old)
            if apply is not None:
                apply(old, self.state)
            build.faults(old, self.state)
            self._save()

    def _save(self) -> None:
        path = _state_file(self.id, Path(self.state.directory))
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_bytes(to_json(self.state))
        fresh.replace(path)


def down(lab_id: str, directory: Path | None = None) -> list[str]:
    """Ends every process of the lab and removes all that it made; works without its state file, and twice.

    Returns the names of the namespaces that it removed.
    """
    directory = directory or default_directory()
    check_id(lab_id)
    if os.geteuid() != 0:
        raise ShadowMeshError("lab_unavailable", "ending a lab needs root", "run it as root", kind=Kind.NOT_ALLOWED)
    with _locked(lab_id, directory):
        return _remove(lab_id, directory)


def _remove(lab_id: str, directory: Path) -> list[str]:
    found = netns.names(_pattern(lab_id))
    netns.end_processes(found)
    for name in found:
        netns.delete(name)
    shutil.rmtree(directory / lab_id, ignore_errors=True)
    for leftover in directory.glob(f"{lab_id}.*"):  # state, half-written state, and the lock that the caller holds
        leftover.unlink(missing_ok=True)
    if directory == DIRECTORY:
        with suppress(OSError):  # other labs are there
            directory.rmdir()
    return found


def all_labs(directory: Path | None = None) -> list[str]:
    """Ids of the labs that exist, by namespaces and by state files."""
    by_name = {n[len(PREFIX) :].partition("-")[0] for n in netns.names(rf"{PREFIX}[a-z0-9]+-.*")}
    by_file = {p.stem for p in (directory or default_directory()).glob("*.json")}
    return sorted(by_name | by_file)


def _pattern(lab_id: str) -> str:
    return rf"{PREFIX}{lab_id}-.*"


def _state_file(lab_id: str, directory: Path) -> Path:
    return directory / f"{lab_id}.json"


@contextmanager
def _locked(lab_id: str, directory: Path) -> Iterator[None]:
    """One change of a lab at a time, over all processes; the lock goes with its holder."""
    path = directory / f"{lab_id}.lock"
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the last lab went, and its directory, just now
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):  # else `down` removed it while we waited
                yield
                return
        finally:
            os.close(descriptor)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the half second that building takes; netlink's event loops don't like it in their middle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _with_faults(state: LabState, **changes: Any) -> LabState:
    return msgspec.structs.replace(state, faults=msgspec.structs.replace(state.faults, **changes))


def _put(values: Mapping[str, T], key: str, value: T | None) -> dict[str, T]:
    rest = {k: v for k, v in values.items() if k != key}
    return rest if value is None else {**rest, key: value}
