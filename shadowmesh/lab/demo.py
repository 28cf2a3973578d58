"""`shadowmesh demo`: machines behind NATs find each other, on one machine, before one's eyes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shadowmesh.lab.conversations import Conversations, transfer
from shadowmesh.lab.internet import Lab
from shadowmesh.lab.plan import TYPICAL_SITES, LabSpec, SiteSpec
from shadowmesh.lab.progress import DIRECT_WITHIN, Pair, PairReport, Progress
from shadowmesh.lab.world import NETWORK, StatusFeed, World, this_program
from shadowmesh.model.codec import Struct
from shadowmesh.model.status import Status

_TRANSFER_SECONDS = 1.0


class DemoResult(Struct, frozen=True, kw_only=True):
    """What the demo showed. `ok`: every pair talks, and those that punching brings together are direct in time."""

    ok: bool
    lab: str
    left_up: bool
    network: str
    ready_s: float
    pairs: tuple[PairReport, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`once`: the lab is taken down at the end. `program`: the arguments that run ShadowMesh.

    `look` is called when all has been shown, while the pairs still talk; the demo goes on when it returns.
    """

    once: bool = False
    lab_id: str = "lab"
    program: Sequence[str] = field(default_factory=this_program)
    look: Callable[[World], None] | None = None


def run(options: DemoOptions, console: Console | None = None) -> DemoResult:
    """Runs the demo and shows it on the console (a live table on a terminal, else lines).

    Raises ShadowMeshError if the lab or a role can't start; nothing remains then, nor after Ctrl-C.
    """
    screen = _Screen(console or Console(file=sys.stdout))
    lab = Lab(LabSpec(sites=tuple(SiteSpec(nat=nat) for nat in TYPICAL_SITES), relays=1, controllers=1), options.lab_id)
    hosts = {m.name: lab.state.site(m.site).nat for m in lab.state.machines if m.site is not None}
    began = time.monotonic()
    screen.say(f"making an internet: {len(TYPICAL_SITES)} sites behind routers, a relay, a controller")
    with lab:
        world = World(lab, options.program)
        screen.say("starting the controller, the relay and a daemon on each host, by the commands a person would use")
        addresses = world.mesh()
        ready = time.monotonic() - began
        screen.say(f"{len(addresses)} clients joined the network {NETWORK!r} after {ready:.1f} s; now they talk")
        progress = Progress(hosts)
        machines = {name: lab.host(name) for name in addresses}
        conversations = Conversations(machines, addresses)
        try:
            _watch(world, addresses, progress, conversations, screen)
            result = DemoResult(
                ok=not progress.problems(),
                lab=options.lab_id,
                left_up=not options.once,
                network=NETWORK,
                ready_s=round(ready, 3),
                pairs=tuple(pair.report() for pair in progress.pairs.values()),
                problems=tuple(progress.problems()),
            )
            screen.conclude(result)
            if options.look is not None:
                options.look(world)
        finally:
            conversations.stop()
        if not options.once:
            lab.keep()
    return result


def _watch(
    world: World, addresses: dict[str, str], progress: Progress, conversations: Conversations, screen: _Screen
) -> None:
    """Starts traffic between all pairs, follows them until they are settled or the time is up, then measures rates."""
    changed = threading.Condition()
    machines = {name: world.lab.host(name) for name in addresses}
    with ExitStack() as stack:

        def see(host: str, status: Status) -> None:
            with changed:
                if conversations.began:
                    progress.see(host, status, time.monotonic() - conversations.began)
                changed.notify()

        def look() -> None:
            for key, conversation in conversations.pairs.items():
                progress.pairs[key].talked = conversation.first_answer
                progress.pairs[key].broken = conversation.broken

        stack.enter_context(screen)
        for name in addresses:
            stack.enter_context(StatusFeed(world, name, see))
        conversations.start()
        deadline = conversations.began + DIRECT_WITHIN
        while not progress.settled() and time.monotonic() < deadline:
            with changed:
                changed.wait(0.25)
                look()
                screen.show(progress)
        for (a, b), pair in progress.pairs.items():
            if pair.talked is None:
                continue
            try:
                done = transfer(machines[a], machines[b], addresses[b], seconds=_TRANSFER_SECONDS)
            except OSError:
                done = None
            with changed:
                pair.mbit, pair.intact = (done.mbit, done.intact) if done else (None, False)
                look()
                screen.show(progress)
        for (a, b), pair in progress.pairs.items():
            # an upgrade may be too quick to be seen from outside; the daemon keeps its story
            if pair.path == "direct" and not pair.relay_seen:
                history = world.json(a, "why", b, codes=(0, 10, 20))["history"]
                pair.relay_seen = any("relay" in line for line in history)


class _Screen:
    """A live table on a terminal; elsewhere a line whenever a pair changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._said: dict[tuple[str, str], str] = {}
        self._last: Progress | None = None

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def __enter__(self) -> _Screen:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._last is not None:
            self._console.print(table([pair.report() for pair in self._last.pairs.values()]), "")

    def show(self, progress: Progress) -> None:
        self._last = progress
        if self._live is not None:
            reports = [pair.report() for pair in progress.pairs.values()]
            self._live.update(table(reports))
            return
        for key, pair in progress.pairs.items():
            line = story(pair)
            if self._said.get(key) != line and pair.path != "none":
                self._said[key] = line
                self.say(f"  {pair.a} ↔ {pair.b}: {line}")

    def conclude(self, result: DemoResult) -> None:
        direct = sum(pair.path == "direct" for pair in result.pairs)
        self.say(f"{len(result.pairs)} pairs: {direct} direct, {len(result.pairs) - direct} by relay")
        for problem in result.problems:
            self._console.print(f"NOT AS PROMISED: {problem}", style="bold red", highlight=False, soft_wrap=True)
        if result.left_up:
            option = "" if result.lab == "lab" else f" --lab {result.lab}"
            self.say(
                "the lab is still up; look around:\n"
                f"  shadowmesh lab exec{option} h1 -- shadowmesh status\n"
                f"  shadowmesh lab exec{option} h3 -- shadowmesh why h5\n"
                f"  shadowmesh lab exec{option} h1 -- shadowmesh tui\n"
                f"  shadowmesh lab nat{option} s3 symmetric\n"
                f"end it with\n  shadowmesh lab down{option}"
            )


def story(pair: Pair) -> str:
    """One line about a pair: the way it went, when, why, and how fast it is."""
    reason = pair.view.reason if pair.view else ""
    parts = [" → ".join(_way(pair.report()))]
    if pair.direct is not None:
        parts.append(f"after {pair.direct:.1f} s")
    parts.append(f"({reason})")
    if pair.mbit is not None:
        parts.append(f"{pair.mbit:.0f} Mbit/s")
    return " ".join(parts)


def table(reports: Sequence[PairReport]) -> Table:
    """The pairs as people see them; fits into 80 columns."""
    sites = dict([(r.a, r.nat_a) for r in reports] + [(r.b, r.nat_b) for r in reports])
    title = " · ".join(f"{name} {nat}" for name, nat in sites.items())
    shown = Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False, header_style="bold")
    for heading in ("pair", "path", "answer", "after", "Mbit/s", "why"):
        shown.add_column(heading, justify="right" if heading in ("answer", "after", "Mbit/s") else "left", no_wrap=True)
    for report in reports:
        style = {"direct": "green", "relay": "yellow"}.get(report.path, "red")
        shown.add_row(
            f"{report.a} ↔ {report.b}",
            Text(" → ".join(_way(report)), style=style),
            "-" if report.talked_s is None else f"{report.talked_s * 1000:.0f} ms",
            "-" if report.direct_s is None else f"{report.direct_s:.1f} s",
            "-" if report.mbit is None else f"{report.mbit:.0f}",
            report.reason,
        )
    return shown


def _way(report: PairReport) -> list[str]:
    return ["relay", "direct"] if report.path == "direct" and report.relay_seen else [report.path]
