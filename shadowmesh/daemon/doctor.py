"""What this host needs to carry networks, looked at one by one: `shadowmesh doctor`.

Nothing is changed. Where the daemon answers, its own word counts; where it doesn't, what can be tried without it is tried.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from shadowmesh.client_api.local import SOCKET_NAME, DaemonClient
from shadowmesh.dataplane.pumps import ENVIRONMENT, choose_pump, native_built
from shadowmesh.dataplane.sockets import SOL_UDP, UDP_GRO, UDP_SEGMENT
from shadowmesh.dataplane.tun import Offloads, negotiate, open_tun
from shadowmesh.model.clock import in_words
from shadowmesh.model.codec import Struct
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import NetworkStatus, Status

MIB = 1 << 20
_DEVICE = Path("/dev/net/tun")
_EARLIEST = 1_735_689_600.0  # 2025 began: a clock before that was never set
_OFF = 60.0  # seconds by which a clock may differ from the controller's
_TLS_BREAKS = 86400.0  # a certificate of ours begins two days before it was made, and is renewed weeks before its end
_CONTACT_TIMEOUT = 3.0
_ENDED = "a new invite joins it again; `shadowmesh leave` forgets it"
_REMEDIES = {
    "pending-approval": "an administrator approves it",
    "removed": _ENDED,
    "refused": _ENDED,
    "expired": _ENDED,
    "duplicate": "if this machine is a copy: `shadowmesh daemon reset-identity`, and join again",
}
_SECRETS = ("state.db", "state.db-wal", "state.db-shm", "daemon.lock")


class Check(Struct, frozen=True, kw_only=True):
    """One thing looked at. `remedy` says what to do where it isn't ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""


def _ok(name: str, what: str) -> Check:
    return Check(name=name, state="ok", what=what)


def _warn(name: str, what: str, remedy: str) -> Check:
    return Check(name=name, state="warn", what=what, remedy=remedy)


def _fail(name: str, what: str, remedy: str) -> Check:
    return Check(name=name, state="fail", what=what, remedy=remedy)


def examine(state_dir: Path) -> Iterator[Check]:
    """All checks, each as soon as it is done; those of networks only where this user may know of them."""
    status: Status | None = None
    try:
        status = DaemonClient(state_dir).status()
        yield _ok("daemon", f"answers in {state_dir}, version {status.version}")
    except ShadowMeshError as e:
        yield _fail("daemon", e.what, e.remedy)
    yield pump(None if status is None else status.pump)
    yield from tun()
    yield udp_offloads()
    yield from tools()
    offsets = [n.clock_offset_s for n in status.networks if n.clock_offset_s is not None] if status else []
    yield clock(time.time(), max(offsets, key=abs, default=0.0))
    if status is not None:
        for network in status.networks:
            yield from running_network(network)
    else:
        yield from kept_networks(state_dir)
    yield state_modes(state_dir)
    yield disk(state_dir)


def pump(running: str | None) -> Check:
    """Which pump runs, or would, and why. `running`: what the daemon says, None without one."""
    try:
        chosen = choose_pump()
    except ShadowMeshError as e:
        return _fail("pump", e.what, e.remedy)
    name = running or chosen
    if running is not None and running != chosen:
        return _warn("pump", f"the daemon runs the {running} one, this installation has the {chosen} one", "restart it")
    if os.environ.get(ENVIRONMENT):
        return _ok("pump", f"{name}, as {ENVIRONMENT} says")
    why = (
        "it was built in this installation"
        if native_built()
        else "the native one was not built in this installation; where cargo is, installing again builds it"
    )
    return _ok("pump", f"{name}: {why}")


def tun() -> Iterator[Check]:
    """Whether a TUN device can be made, and which super-packets the kernel passes through one. It is gone at once."""
    try:
        fd, _ = open_tun("smdoctor%d")
    except ShadowMeshError as e:
        if e.kind is Kind.NOT_ALLOWED and os.geteuid() and _DEVICE.exists():
            yield _warn("tun", f"{_DEVICE} is there; making a device wasn't tried", "run the doctor as root to try it")
        else:
            yield _fail("tun", e.what, e.remedy)
        return
    try:
        yield _ok("tun", "an interface can be made")
        yield tun_offloads(negotiate(fd))
    finally:
        os.close(fd)


def tun_offloads(found: Offloads) -> Check:
    kinds = [n for n, there in (("vnet_hdr", found.header), ("TSO", found.tcp), ("USO", found.udp)) if there]
    told = ", ".join(kinds) or "none"
    if not found.tcp:
        return _warn("tun offloads", f"{told}: TCP goes packet by packet", "a kernel with TSO on TUN is faster")
    return _ok("tun offloads", told if found.udp else f"{told}; USO comes with Linux 6.2")


def udp_offloads() -> Check:
    """UDP_SEGMENT (Linux 4.18) and UDP_GRO (5.0) on a socket of one's own."""
    missing = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, option in (("GSO", UDP_SEGMENT), ("GRO", UDP_GRO)):
            try:
                sock.setsockopt(SOL_UDP, option, 1)
            except OSError:
                missing.append(name)
    if missing:
        return _warn("udp offloads", f"no UDP {' and '.join(missing)}", "a kernel from 5.0 on is faster")
    return _ok("udp offloads", "GSO, GRO")


def tools() -> Iterator[Check]:
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        path = shutil.which(program)
        if path is None:
            yield _warn(program, "not installed; the lab and the demo need it", f"install {package}")
        else:
            yield _ok(program, path)


def clock(wall: float, offset: float = 0.0) -> Check:
    """`wall`: Unix time here; `offset`: a controller's minus ours, seconds."""
    shown = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(wall))
    if wall < _EARLIEST:
        return _fail("clock", f"it is {shown} here", "set this machine's clock")
    if abs(offset) > _OFF:
        way = "slow" if offset > 0 else "fast"
        told = f"{in_words(offset)} {way} by the controller's"
        if abs(offset) > _TLS_BREAKS:
            return _fail(
                "clock",
                f"{told}: certificates aren't valid by it, and new connections fail",
                "set this machine's clock",
            )
        return _warn("clock", told, "set this machine's clock")
    return _ok("clock", shown)


def running_network(network: NetworkStatus) -> Iterator[Check]:
    """A network's controller and relay, as the daemon sees them."""
    name = f"network {network.name}"
    if network.state == "down":
        yield _ok(name, "switched off")
        return
    if network.state in ("removed", "refused", "expired"):
        yield _fail(name, network.error or network.state, f"`shadowmesh leave {network.name}` forgets it")
        return
    if network.state != "up":
        yield _fail(name, network.error or network.state, _REMEDIES.get(network.state, "see `shadowmesh status`"))
    if network.state in ("removed", "refused", "expired"):
        return
    if network.controller == "connected":
        yield _ok(f"controller of {network.name}", "connected")
    else:
        yield _warn(
            f"controller of {network.name}",
            f"offline{f' ({network.controller_error})' if network.controller_error else ''}; "
            "the network goes on with the map it has",
            "check that it runs and that this machine gets there",
        )
    if network.state == "up":
        if network.home_relay is not None:
            yield _ok(f"relay of {network.name}", network.home_relay)
        else:
            remedy = "see `shadowmesh relay list`, and that this machine gets to one by UDP or TCP"
            yield _warn(f"relay of {network.name}", "no session with any", remedy)


def kept_networks(state_dir: Path) -> Iterator[Check]:
    """Without a daemon: the controllers of the networks on disk, asked from here. Another's state isn't looked into."""
    if not os.access(state_dir / "state.db", os.R_OK | os.W_OK):
        return
    from shadowmesh.client_api.enroll import reach
    from shadowmesh.daemon.state import State

    try:
        state = State(state_dir)
        try:
            records = state.networks()
        finally:
            state.close()
    except ShadowMeshError as e:
        yield _fail("state", e.what, e.remedy)
        return
    for record in records:
        controller = record.controller
        try:
            contact = reach(controller.identity.urls, controller.fingerprint, timeout=_CONTACT_TIMEOUT)
        except ShadowMeshError as e:
            yield _warn(f"controller of {record.name}", e.what, e.remedy)
        else:
            yield _ok(f"controller of {record.name}", contact.url)
            if abs(contact.offset) > _OFF:
                yield clock(time.time(), contact.offset)


def state_modes(state_dir: Path) -> Check:
    """The directory is passed by others and not listed; what is in it is the owner's, but for the socket."""
    try:
        wrong = [str(state_dir)] if state_dir.stat().st_mode & 0o066 else []
        for name in _SECRETS:
            path = state_dir / name
            if path.exists() and path.stat().st_mode & 0o077:
                wrong.append(str(path))
        if wrong:
            return _fail("state directory", f"open to others: {', '.join(wrong)}", f"chmod go-rw {' '.join(wrong)}")
        there = "private" if (state_dir / SOCKET_NAME).exists() else "private; no daemon has its socket in it"
    except FileNotFoundError:
        return _ok("state directory", f"{state_dir} isn't there yet: the first join or start makes it")
    except OSError as e:
        why = (e.strerror or str(e)).lower()
        return _fail("state directory", f"{state_dir}: {why}", "run as root, or say another --state-dir")
    return _ok("state directory", f"{state_dir} is {there}")


def disk(state_dir: Path) -> Check:
    """Space where the state is, or will be."""
    place = next(p for p in (state_dir.absolute(), *state_dir.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    told = f"{free // MIB} MiB free at {place}"
    if free < MIB:
        return _fail("disk", told, "free some space: nothing can be kept")
    return _warn("disk", told, "free some space") if free < 50 * MIB else _ok("disk", told)
