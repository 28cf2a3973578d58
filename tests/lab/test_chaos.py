"""kill -9 at any moment: of the daemon, of the pump alone, of the controller; nothing is lost and nothing is left.

Three hosts go through joining, handshakes, changes of path and stopping, each in its own thread, and at a seeded moment
of each something is killed. A fourth is left in peace: all are pinged from it and to it. One kill of each sort runs with every test, fifty with
each of several seeds are a proof.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.lab import netns
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import NETWORK, SUBNET, World
from shadowmesh.model import api
from shadowmesh.model.errors import Kind, ShadowMeshError

pytestmark = [pytest.mark.lab, pytest.mark.slow]

Victim = Literal["daemon", "pump", "controller"]
Phase = Literal["join", "handshake", "upgrade", "fallback", "stop"]
PLAN: dict[tuple[Phase, Victim], int] = {
    ("join", "daemon"): 6, ("join", "pump"): 4, ("join", "controller"): 7,
    ("handshake", "daemon"): 6, ("handshake", "pump"): 5,
    ("upgrade", "daemon"): 5, ("upgrade", "pump"): 4,
    ("fallback", "daemon"): 2, ("fallback", "pump"): 1,
    ("stop", "daemon"): 5, ("stop", "pump"): 2, ("stop", "controller"): 3,
}  # fmt: skip
MOMENTS: dict[Phase, tuple[float, float]] = {  # seconds after its beginning in which a phase happens
    "join": (0.0, 0.6),
    "handshake": (0.0, 0.1),
    "upgrade": (0.1, 0.6),
    "fallback": (5.0, 7.5),
    "stop": (0.0, 0.3),
}
BACK = 20  # seconds until all has to work again, on a machine that is busy with the others' restarts
HEARD = 45  # the same for a newcomer: others hear of it when they are back at a controller, which they try less and less often


@dataclass(frozen=True)
class Kill:
    number: int
    phase: Phase
    victim: Victim
    after: float

    def __str__(self) -> str:
        return f"#{self.number}: {self.victim} {self.after * 1000:.0f} ms into {self.phase}"


@dataclass(frozen=True)
class Plan:
    """`whole`: fifty kills; else one of each sort."""

    seed: int
    whole: bool

    def __str__(self) -> str:
        return f"{'fifty' if self.whole else 'few'}-seed{self.seed}"


def kills(plan: Plan) -> list[Kill]:
    rng = random.Random(plan.seed)
    chosen = [what for what, count in PLAN.items() for _ in range(count if plan.whole else 1)]
    rng.shuffle(chosen)
    return [Kill(i, phase, victim, rng.uniform(*MOMENTS[phase])) for i, (phase, victim) in enumerate(chosen, 1)]


# what the product may leave on a host

_LISTS = ("addr", "route show table all", "-6 route show table all", "rule", "-6 rule")
_FIELDS = (
    "ifname",
    "dev",
    "dst",
    "gateway",
    "table",
    "protocol",
    "prefsrc",
    "priority",
    "src",
    "lookup",
    "local",
    "prefixlen",
)


def settings(host: Any) -> dict[str, set[str]]:
    """Links, addresses, routes and rules of a host, by the interface that they are on ("" for rules)."""
    script = "; echo; ".join(f"ip -j {what}" for what in _LISTS)
    found: dict[str, set[str]] = {}
    for line in host.exec(["sh", "-c", script]).stdout.splitlines():
        for item in json.loads(line or "[]"):
            where = str(item.get("ifname") or item.get("dev") or "")
            kept = {key: item[key] for key in _FIELDS if key in item}
            found.setdefault(where, set()).add(json.dumps(kept, sort_keys=True))
            for address in item.get("addr_info", ()):
                found[where].add(json.dumps({key: address[key] for key in _FIELDS if key in address}, sort_keys=True))
    return found


def pumps(host: Any) -> list[int]:
    """Process ids of the pumps that run on a host."""
    found = []
    for pid in host.processes():
        with suppress(OSError):
            if b"shadowmesh.dataplane." in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _is_rule_of_one_network(item: dict[str, Any]) -> bool:
    """Whether it is one that a host with a single network has; what a crash left would have pushed them to others."""
    return item.get("protocol") == "83" and item.get("priority") in (5198, 5199, 5200)


class Chaos:
    """The world and what has been promised in it."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.kills = kills(plan)
        self.anchor = ""  # overlay address of the host that is left in peace
        self.baseline: dict[str, dict[str, set[str]]] = {}
        self.joined: dict[str, str] = {}  # client id → host, for every join that was answered
        self.left: set[str] = set()
        self.created: set[str] = set()  # networks that the controller said it had made
        self.stop = threading.Event()
        self.back: list[tuple[float, str]] = []  # seconds until all worked again, and after what
        self._controller = threading.Lock()
        self._names = iter(range(1, 1000))

    @property
    def data_dir(self) -> Path:
        return self.world.lab.host("controller1").state_directory

    # doing again what a dead controller didn't do

    def insist(self, what: Callable[[], Any]) -> Any:
        """Does it until there is a controller, or daemon, that answers."""
        deadline = time.monotonic() + HEARD
        while True:
            try:
                return what()
            except ShadowMeshError as e:
                if e.kind is not Kind.UNREACHABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def invite(self) -> str:
        def ask() -> str:
            with ControllerClient.local(self.data_dir) as controller:
                return str(controller.invite_create(NETWORK, api.InviteCreate(uses=1)).invite)

        return str(self.insist(ask))

    def join(self, host: str, invite: str, name: str) -> None:
        answer = self.world.client(host).call("join", invite=invite, name=name, wait=True, wait_s=BACK)
        self.joined[answer["client_id"]] = host

    def leave(self, host: str) -> None:
        for network in self.world.client(host).status().networks:
            self.left.add(network.client_id)
            self.world.client(host).call("leave", network=network.name)

    # one kill

    def round(self, host: str, kill: Kill) -> None:
        """Goes through the phase, kills in it, puts everything back up, and looks whether all works and nothing is left."""
        acting, finish = self.phase(host, kill)
        action = _Action(acting)
        self.kill_after(host, kill)
        action.join()
        began = time.monotonic()
        self.put_back(host, kill)
        finish()
        self.check(host, HEARD if kill.phase == "join" else BACK)
        self.back.append((time.monotonic() - began, str(kill)))

    def phase(self, host: str, kill: Kill) -> tuple[Callable[[], object], Callable[[], object]]:
        """What is done while something is killed, and what has to succeed afterwards."""
        client = self.world.client(host)
        match kill.phase:
            case "join":
                self.leave(host)
                invite, name = self.invite(), f"{host}-{next(self._names)}"

                def again() -> None:  # with the very invite, which is good for one use
                    if not any(n.state == "up" for n in client.status().networks):
                        self.insist(lambda: self.join(host, invite, name))

                return lambda: self.join(host, invite, name), again
            case "handshake" | "upgrade":
                client.call("down")
                client.call("up")
                return lambda: self.ping(host, 1), lambda: None
            case "fallback":
                self.ping(host, 5)
                self.world.lab.cut(host, "h4")
                return lambda: self.ping(host, 8), lambda: self.world.lab.heal()
            case "stop":
                if kill.victim == "pump":
                    return lambda: client.call("down"), lambda: client.call("up")
                return lambda: None, lambda: None

    def kill_after(self, host: str, kill: Kill) -> None:
        if kill.victim == "controller":
            with self._controller:
                if kill.phase == "stop":
                    self.world.running["controller1"].terminate()
                self.stop.wait(kill.after)
                self.world.stop("controller1", kill=True)
                self.world.start_controller()
            return
        if kill.victim == "daemon":
            if kill.phase == "stop":
                self.world.running[host].terminate()
            self.stop.wait(kill.after)
            self.world.stop(host, kill=True)
            return
        self.stop.wait(kill.after)
        machine = self.world.lab.host(host)
        for pid in pumps(machine):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def put_back(self, host: str, kill: Kill) -> None:
        if kill.victim == "daemon":
            state = self.world.lab.host(host).state_directory
            self.world._start(host, "daemon", "run", "--state-dir", str(state))
        self.wait(lambda: self._answers(host), host, "the daemon answers")

    def _answers(self, host: str) -> bool:
        assert self.world.running[host].poll() is None, "the daemon ended"
        try:
            self.world.client(host).status()
        except ShadowMeshError:
            return False
        return True

    def wait(self, check: Callable[[], object], host: str, what: str) -> None:
        deadline = time.monotonic() + BACK
        while not check():
            assert time.monotonic() < deadline, f"within {BACK:.0f} s on {host}: {what}"
            time.sleep(0.05)

    def ping(self, host: str, seconds: int) -> bool:
        """Whether the anchor answers ICMP through the tunnel."""
        command = ["ping", "-c", "1", "-i", "0.2", "-w", str(seconds), self.anchor]
        return self.world.lab.host(host).exec(command, check=False, timeout=60).returncode == 0

    def check(self, host: str, patience: int) -> None:
        machine = self.world.lab.host(host)
        assert self.ping(host, patience), f"no answer to ping in {patience} s: {self.world.client(host).status()}"
        (network,) = self.world.client(host).status().networks
        assert network.state == "up", network
        self.wait(lambda: self.hears(host), host, "presence is known again")
        self.wait(lambda: len(pumps(machine)) == 1, host, "one pump")
        self.wait(lambda: not self.strange(host, network.interface, network.ip), host, "nothing stale")

    def hears(self, host: str) -> bool:
        """Whether the daemon knows of the anchor what the controller knows, or knows that it can't."""
        (network,) = self.world.client(host).status().networks
        anchor = next(p for p in network.peers if p.ip == self.anchor)
        return network.controller == "offline" or anchor.online is not None

    def strange(self, host: str, interface: str, ip: str) -> list[str]:
        """What is on a host and shouldn't be."""
        found, baseline = settings(self.world.lab.host(host)), self.baseline[host]
        own = found.pop(interface, set()) if interface else set()
        rules = (
            {item for item in found.get("", ()) if _is_rule_of_one_network(json.loads(item))} if interface else set()
        )
        found[""] = found.get("", set()) - rules
        stale = [f"{where}: {item}" for where in found for item in found[where] - baseline.get(where, set())]
        gone = [f"gone from {where}: {i}" for where in baseline for i in baseline[where] - found.get(where, set())]
        for item in map(json.loads, own):
            if "local" in item and ":" not in item["local"] and item["local"] != ip:
                stale.append(f"{interface}: {item}")
            if item.get("protocol") == "83" and item["dst"] != SUBNET:
                stale.append(f"{interface}: {item}")
        return stale + gone


class _Action(threading.Thread):
    """Something that may be cut off by the death of who does it."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.start()

    def run(self) -> None:
        with suppress(ShadowMeshError, subprocess.CalledProcessError):
            self._work()


def _host(chaos: Chaos, host: str, kills: list[Kill], failures: list[str]) -> None:
    for kill in kills:
        if chaos.stop.is_set():
            return
        try:
            chaos.round(host, kill)
        except Exception as e:  # reported with the seed by the test's own thread
            log = chaos.world.log(host).read_text(errors="replace").splitlines()[-25:]
            failures.append(f"{kill} on {host}: {type(e).__name__}: {e}\n" + "\n".join(log))
            chaos.stop.set()


def _clerk(chaos: Chaos) -> None:
    """Makes networks all the time, and remembers those that the controller said it had made."""
    number = 0
    while not chaos.stop.wait(0.1):
        try:
            with ControllerClient.local(chaos.data_dir) as controller:
                while not chaos.stop.wait(0.1):
                    number += 1
                    name = f"n{number}"
                    controller.network_create(
                        api.NetworkCreate(name=name, subnet=f"10.{number // 250}.{number % 250}.0/24")
                    )
                    chaos.created.add(name)
        except ShadowMeshError:
            pass


@pytest.fixture(
    params=[
        Plan(20, whole=False),
        *(pytest.param(Plan(n, whole=True), marks=pytest.mark.prove) for n in range(20, 25)),
    ],
    ids=str,
)
def chaos(request: pytest.FixtureRequest, lab_factory) -> Iterator[Chaos]:
    home = SiteSpec(nat=NatType.PORT_RESTRICTED)
    lab = lab_factory(LabSpec(sites=(SiteSpec(), home, home, SiteSpec()), relays=1, controllers=1))
    made = Chaos(World(lab), request.param)
    made.baseline = {host: settings(lab.host(host)) for host in ("h1", "h2", "h3", "h4")}
    ips = made.world.mesh()
    made.anchor = ips["h4"]
    yield made
    made.stop.set()


@pytest.mark.timeout(1200)
def test_kills_lose_nothing_and_leave_nothing(chaos: Chaos, told) -> None:
    assert len(chaos.kills) == (50 if chaos.plan.whole else len(PLAN))
    failures: list[str] = []
    began = time.monotonic()
    hosts = [
        threading.Thread(target=_host, args=(chaos, host, chaos.kills[i::3], failures))
        for i, host in enumerate(("h1", "h2", "h3"))
    ]
    clerk = threading.Thread(target=_clerk, args=(chaos,))
    for thread in (*hosts, clerk):
        thread.start()
    for thread in hosts:
        thread.join()
    chaos.stop.set()
    clerk.join()
    assert not failures, f"{chaos.plan}\n" + "\n".join(failures)
    times = sorted(chaos.back)
    told("kills", f"{len(times)} in {time.monotonic() - began:.0f} s")
    told(
        "all works again (s)",
        f"median {statistics.median(t for t, _ in times):.1f}, at the latest {times[-1][0]:.1f} ({times[-1][1]})",
    )
    told("answered", f"{len(chaos.joined)} joins, {len(chaos.created)} networks")

    with ControllerClient.local(chaos.data_dir) as controller:
        members = {c.client_id: c.name for c in controller.client_list(NETWORK)}
        assert len(set(members.values())) == len(members)  # a join that was tried again made no second member
        networks = {n.name for n in controller.network_list()}
        assert chaos.joined.keys() - chaos.left <= members.keys()
        assert chaos.created <= networks
        assert controller.audit_verify().ok

    lab = chaos.world.lab
    for host in ("h1", "h2", "h3", "h4"):
        assert chaos.world.stop(host) == 0
        assert chaos.strange(host, "", "") == []
        assert lab.host(host).processes() == []
    assert set(netns.names(rf"(smlab-{lab.id}-|shadowmesh).*")) == set(lab.state.namespaces())
