"""One network of N members, and what its controller spends on each kind of change.

CPU is what the kernel counted for the controller's threads; it holds on a busy machine, wall times don't. Every CPU
figure is the median of five. What is told is timed from before the request to the arrival at each member.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from load_controller import Controllers
from load_members import Crowd, Member, WholeMember
from load_wire import Http

from shadowmesh.model.codec import from_json
from shadowmesh.model.invite import Invite
from shadowmesh.protocol.signing import IdentityDocument

NETWORK = "load"
_CLIENT_CHANGES = 20
_JOINERS = 64  # joins at once while the network fills
_QUIET = 0.5  # seconds without news: a change has ended
_PATIENCE = 60.0


def percentile(values: list[float], part: float) -> float:
    """The value that `part` (0 to 1) of all don't exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


@dataclass
class Seen:
    """Who (by number) has heard of serial `wanted` or a later one, and when."""

    wanted: int
    waiting: set[int]
    at: dict[int, float] = field(default_factory=dict)
    all: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, member: Member, serial: int, at: float) -> None:
        if serial >= self.wanted and member.number in self.waiting:
            self.waiting.discard(member.number)
            self.at[member.number] = at
            if not self.waiting:
                self.all.set()


@dataclass
class Load:
    """The controller, the members, and the figures so far (CPU in milliseconds).

    `times`: a figure is the median of so many; `pause`: how long is waited where nothing happens, 1.0 in a whole run.
    """

    controller: Controllers
    crowd: Crowd
    admin: Http
    invite: Invite
    directory: Path
    times: int
    pause: float
    members: list[Member] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    _numbers: int = 0
    _tags: int = 0

    def member(self, *, whole: bool = False) -> Member:
        self._numbers += 1
        return WholeMember(self.crowd, self._numbers, self.directory) if whole else Member(self.crowd, self._numbers)

    async def joins(self, member: Member) -> int:
        """Enrols and connects; returns the size of the enrolment's answer."""
        http = Http(member.port, source=member.source)
        try:
            size = await member.enrol(http, self.invite)
        finally:
            http.close()
        await member.connect()
        self.members.append(member)
        return size

    def tags(self) -> int:
        """Another one each time."""
        self._tags += 1
        return self._tags

    async def serial(self) -> int:
        return int((await self.admin.json("GET", f"/networks/{NETWORK}"))["serial"])

    @asynccontextmanager
    async def seen(self, *, but: Member | None = None) -> AsyncIterator[Seen]:
        """Waits at its end until all members heard of a serial newer than that of now."""
        waiting = {m.number for m in self.members if m is not but}
        watch = Seen(await self.serial() + 1, waiting)
        self.crowd.saw = watch.note
        try:
            yield watch
            async with asyncio.timeout(_PATIENCE):
                await watch.all.wait()
        finally:
            self.crowd.saw = lambda member, serial, at: None

    async def cpu_of(self, work: Callable[[], Awaitable[Any]]) -> float:
        """Milliseconds of the controller's CPU until it is quiet again, less what it uses idle."""
        before, started = self.controller.cpu(), time.monotonic()
        await work()
        while True:
            at = self.controller.cpu()
            await asyncio.sleep(_QUIET)
            if self.controller.cpu() - at < 0.02 * _QUIET + self.figures.get("idle", 0.0) * _QUIET * 1.5:
                break
        idle = self.figures.get("idle", 0.0) * (time.monotonic() - started)
        return max(0.0, self.controller.cpu() - before - idle) * 1e3

    @asynccontextmanager
    async def probing(self, name: str) -> AsyncIterator[None]:
        """Asks something of the REST API each 50 ms, by new connections, and keeps the times."""
        times: list[float] = []

        async def probe() -> None:
            while True:
                http, started = self.controller.http("127.0.0.9"), time.monotonic()
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await http("GET", f"/networks/{NETWORK}")
                    times.append((time.monotonic() - started) * 1e3)
                http.close()
                await asyncio.sleep(0.05)

        task = asyncio.create_task(probe())
        try:
            yield
        finally:
            task.cancel()
            self.figures[f"rest {name} p50"] = percentile(times, 0.5)
            self.figures[f"rest {name} p99"] = percentile(times, 0.99)


async def _idle(load: Load, seconds: float) -> float:
    """The share of a core that the controller uses when nothing happens."""
    before, started = load.controller.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    return (load.controller.cpu() - before) / (time.monotonic() - started)


async def _fill(load: Load, number: int, whole: int) -> None:
    turn = iter(range(number))
    started, cpu = time.monotonic(), load.controller.cpu()

    async def joiner() -> None:
        for index in turn:
            await load.joins(load.member(whole=index < whole))
            if len(load.members) % max(1, number // 5) == 0:
                print(f"  {len(load.members)} members", flush=True)

    await asyncio.gather(*(joiner() for _ in range(min(_JOINERS, number))))
    load.figures["fill seconds"] = time.monotonic() - started
    load.figures["fill cpu a join"] = (load.controller.cpu() - cpu) / number * 1e3


async def _change(load: Load, number: int) -> dict[int, float]:
    """One member gets a tag, by the first node; milliseconds until each (by number) heard of it."""
    member = load.members[number % len(load.members)]
    async with load.seen() as watch:
        started = time.monotonic()
        await load.admin("PATCH", f"/networks/{NETWORK}/clients/{member.client_id}", {"tags": [f"t{load.tags()}"]})
    return {who: (at - started) * 1e3 for who, at in watch.at.items()}


async def _alone(load: Load) -> None:
    """What the same costs in a network of few: the part that isn't telling others."""
    await load.joins(load.member())
    changes = [await load.cpu_of(partial(_change, load, 0)) for _ in range(load.times)]
    joins = [await load.cpu_of(partial(load.joins, load.member())) for _ in range(load.times)]
    load.figures |= {"alone change cpu": statistics.median(changes), "alone join cpu": statistics.median(joins)}


async def _changes(load: Load) -> None:
    cpu, times = [], []
    for number in range(2 * load.times):

        async def change(number: int = number) -> None:
            times.append(await _change(load, number))

        cpu.append(await load.cpu_of(change))
    telling = max(0.0, statistics.median(cpu) - load.figures["alone change cpu"])
    load.figures |= {
        "change cpu": statistics.median(cpu),
        "telling cpu a client": telling / len(load.members) * 1e3,
        "change p50": statistics.median(percentile(list(t.values()), 0.5) for t in times),
        "change p99 worst": max(percentile(list(t.values()), 0.99) for t in times),
        "change latest": max(max(t.values()) for t in times),
    }
    node = {member.number: load.controller.ports.index(member.port) for member in load.members}
    for number in range(len(load.controller.nodes)):
        there = [percentile([at for who, at in t.items() if node[who] == number], 0.99) for t in times]
        load.figures[f"change p99 node {number + 1}"] = statistics.median(there)


async def _joins(load: Load) -> None:
    cpu, sizes = [], []
    for _ in range(load.times):
        newcomer = load.member()

        async def join(newcomer: Member = newcomer) -> None:
            async with load.seen():
                sizes.append(await load.joins(newcomer))

        cpu.append(await load.cpu_of(join))
    telling = load.figures["telling cpu a client"] / 1e3 * len(load.members)
    own = max(0.0, statistics.median(cpu) - telling)
    load.figures |= {
        "join cpu": statistics.median(cpu),
        "join cpu own": own,
        "join ratio": own / load.figures["alone join cpu"],
        "join answer kB": statistics.median(sizes) / 1e3,
    }


async def _client(load: Load) -> None:
    """A whole daemon joins: what a change costs it, what it uses idle."""
    code = (await load.admin.json("POST", f"/networks/{NETWORK}/invites", {}))["invite"]
    here = Path(__file__).parent
    paths = (here, here.parent / "daemon", here.parent / "controller", here.parent / "dataplane")
    process = await asyncio.create_subprocess_exec(
        sys.executable, here / "load_client.py", load.directory / "whole", code,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    async def mark() -> dict[str, float]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"mark\n")
        return dict(json.loads(await process.stdout.readline()))

    async with asyncio.timeout(120):
        await process.stdout.readline()  # it has joined
    await asyncio.sleep(3 * load.pause)
    before = await mark()
    await asyncio.sleep(10 * load.pause)
    idle = await mark()
    for number in range(_CLIENT_CHANGES):
        await _change(load, number)
    await asyncio.sleep(1)
    after = await mark()
    assert after["serial"] - idle["serial"] == _CLIENT_CHANGES
    load.figures |= {
        "client cpu a change": (after["cpu"] - idle["cpu"]) / _CLIENT_CHANGES * 1e3,
        "client bytes a change": (after["written"] - idle["written"]) / _CLIENT_CHANGES,
        "client idle": (idle["cpu"] - before["cpu"]) / (10 * load.pause),
        "client MB": after["resident"] / 1e3,
    }
    process.stdin.close()
    await process.wait()


async def _hellos(load: Load) -> None:
    """Some drop their link and come back at once."""
    some, cpu = load.members[:200], []

    async def again() -> None:
        for member in some:
            member.leave()
        await asyncio.gather(*(member.connect() for member in some))

    for _ in range(load.times):
        cpu.append(await load.cpu_of(again) / len(some))
    load.figures["hello cpu"] = statistics.median(cpu)


async def _sustained(load: Load, rate: float, seconds: float) -> None:
    """Joins at a rate that doesn't wait for them."""
    times: list[float] = []

    async def join() -> None:
        started = time.monotonic()
        await load.joins(load.member())
        times.append((time.monotonic() - started) * 1e3)

    cpu, started, tasks = load.controller.cpu(), time.monotonic(), []
    async with load.probing("joins"):
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(join()))
        await asyncio.gather(*tasks)
    took = time.monotonic() - started
    load.figures |= {
        "sustained joins a second": len(times) / took,
        "sustained join p99": percentile(times, 0.99),
        "sustained cpu share": (load.controller.cpu() - cpu) / took,
    }


async def _removals(load: Load) -> None:
    cpu, p99, latest = [], [], []

    async def remove() -> None:
        victim = load.members.pop()
        async with load.seen() as watch:
            started = time.monotonic()
            await load.admin("DELETE", f"/networks/{NETWORK}/clients/{victim.client_id}")
        times = [(at - started) * 1e3 for at in watch.at.values()]
        p99.append(percentile(times, 0.99))
        latest.append(max(times))

    for _ in range(load.times + 1):
        cpu.append(await load.cpu_of(remove))
    async with load.probing("removals"):
        await load.admin("POST", f"/networks/{NETWORK}/rotate-key")
        for _ in range(load.times):
            await remove()
            await asyncio.sleep(_QUIET)
    load.figures |= {
        "removal with rotation cpu": cpu[0],  # the others' rotation is merged
        "removal cpu": statistics.median(cpu[1:]),
        "removal p99 worst": max(p99),
        "removal latest": max(latest),
    }


async def _write(load: Load) -> list[str]:
    """Makes invites by the last node, one after the other until it dies; returns those that it acknowledged."""
    http, made = load.controller.http("127.0.0.9", -1), list[str]()
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            made.append((await http.json("POST", f"/networks/{NETWORK}/invites", {}))["id"])
    return made


async def _return(load: Load) -> None:
    """SIGKILL of a node. The only one is started again and everybody comes back; of several the last one stays away and
    its members go to the others. What was acknowledged until then is there afterwards."""
    crowd, controller, last = load.crowd, load.controller, load.controller.nodes[-1]
    several = len(controller.nodes) > 1
    crowd.come_back, crowd.snapshots = True, 0
    crowd.failed_tries = crowd.refused_connections = 0
    crowd.errors.clear()
    moved = [member for member in load.members if member.port == last.port]
    for member in moved:
        member.ready_at = 0.0
    writing = asyncio.create_task(_write(load))
    await asyncio.sleep(0.3 * load.pause)
    await asyncio.to_thread(last.kill)
    killed = time.monotonic()
    acknowledged = await writing
    if not several:
        last.launch()
        load.figures["return serving s"] = await last.serving() - killed
    started_cpu = controller.cpu()
    async with load.probing("return"), asyncio.timeout(180):
        while any(m.ready_at < killed for m in moved):  # noqa: ASYNC110 - each has an end of its own
            await asyncio.sleep(0.1)
        back = [m.ready_at - killed for m in moved]
        if several:
            while (await load.admin.json("GET", f"/networks/{NETWORK}"))["clients_online"] != len(load.members):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            load.figures["return presence s"] = max(0.0, time.monotonic() - killed - max(back))
    crowd.come_back = False
    there: set[str] = set()
    cursor: str | None = ""
    while cursor is not None:
        page = await load.admin.json("GET", f"/networks/{NETWORK}/invites?limit=1000{cursor}")
        there |= {invite["id"] for invite in page["items"]}
        cursor = None if page["next"] is None else f"&cursor={page['next']}"
    load.figures |= {
        "return acknowledged": len(acknowledged),
        "return lost": len(set(acknowledged) - there),
        "return all s": max(back),
        "return p50 s": percentile(back, 0.5),
        "return cpu a client": (controller.cpu() - started_cpu) / len(back) * 1e3,
        "return failed tries": crowd.failed_tries,
        "return refused connections": crowd.refused_connections,
        "return snapshots": crowd.snapshots,
    }
    if crowd.errors:
        print("  errors:", crowd.errors[:5])


async def measure(
    number: int,
    whole: int,
    *,
    nodes: int = 1,
    database_url: str | None = None,
    sustained: float = 10.0,
    times: int = 5,
    pause: float = 1.0,
) -> dict[str, float]:
    """All figures of a network of `number` members, `whole` of them whole clients; see `Load` for `times` and `pause`.

    `nodes`: of the controller, whose CPU and memory are added up; more than one need a `database_url`, an empty PostgreSQL.
    """
    with tempfile.TemporaryDirectory(prefix="shadowmesh-load-") as name:
        directory = Path(name)
        controller = Controllers(directory, nodes, database_url)
        try:
            await controller.start()
            load = Load(controller, *await _prepare(controller), directory, times, pause)
            figures = load.figures
            await asyncio.sleep(2 * pause)
            base = controller.resident_kb()
            figures["idle"] = await _idle(load, 3.0 * pause)
            async with load.probing("quiet"):
                await asyncio.sleep(3.0 * pause)
            await _alone(load)
            print(f"{number} members join", flush=True)
            await _fill(load, number, whole)
            gc.freeze()
            await asyncio.sleep(4 * pause)  # presence is gathered for so long
            figures["kB a client"] = (controller.resident_kb() - base) / number
            figures["idle"] = await _idle(load, 5.0 * pause)
            for what in (_changes, _joins, _hellos, _client, _removals):
                print(f"{what.__name__.strip('_')}", flush=True)
                await what(load)
            if sustained:
                print("sustained joins", flush=True)
                await _sustained(load, 20.0, sustained)
                await asyncio.sleep(2 * pause)
            print("kill -9 and return", flush=True)
            await _return(load)
            figures["members"] = len(load.members)
            for member in load.members:
                member.leave()
            await asyncio.sleep(0.2)
            return figures
        finally:
            controller.stop()


async def _prepare(controller: Controllers) -> tuple[Crowd, Http, Invite]:
    admin = controller.http()
    signed = json.loads(await admin("GET", "/identity"))["document"]
    document = from_json(signed, IdentityDocument)
    await admin("POST", "/networks", {"name": NETWORK, "subnet": "10.64.0.0/16", "max_clients": 60000})
    invite = Invite.decode((await admin.json("POST", f"/networks/{NETWORK}/invites", {"uses": 100000}))["invite"])
    crowd = Crowd(controller.ports, document.identity, document.signing_keys)
    return crowd, admin, invite
