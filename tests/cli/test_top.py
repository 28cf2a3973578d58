"""`top`: rates from counters, the busiest first, live on a terminal and a line a look for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tui_scenarios
from clikit import Command
from fake_daemon import FakeDaemon
from msgspec.structs import replace

from shadowmesh.cli import top
from shadowmesh.cli.base import Call
from shadowmesh.cli.top import Rates, _page, _sorted
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import NetworkStatus


def network(*counters: tuple[str, int, int], name: str = "office") -> NetworkStatus:
    peers = tuple(
        replace(tui_scenarios.peer(peer, number, Reason.DIRECT_LAN), rx_bytes=rx, tx_bytes=tx)
        for number, (peer, rx, tx) in enumerate(counters, 1)
    )
    return tui_scenarios.network(peers, name=name)


def test_rates_are_what_was_counted_between_two_looks() -> None:
    rates = Rates()
    ((_, (first,)),) = rates.look([network(("nas", 1000, 50))], 10.0)
    assert (first.rx, first.tx, first.rate) == (None, None, 0.0)
    ((_, (then, newcomer)),) = rates.look([network(("nas", 5000, 50), ("pi", 9, 9))], 12.0)
    assert (then.rx, then.tx) == (2000.0, 0.0)
    assert newcomer.rx is None, "what it moved before it was seen is nobody's rate"
    ((_, (restarted, _)),) = rates.look([network(("nas", 100, 60), ("pi", 9, 9))], 14.0)
    assert (restarted.rx, restarted.tx) == (None, None)
    ((_, (same, _)),) = rates.look([network(("nas", 100, 60), ("pi", 9, 9))], 14.0)
    assert same.rx is None, "no time has passed"


def test_equal_names_in_two_networks_are_two_peers() -> None:
    rates = Rates()
    one, two = network(("nas", 0, 0)), replace(network(("nas", 500, 0)), network_id="net_other")
    rates.look([one, two], 1.0)
    found = rates.look([network(("nas", 10, 0)), two], 2.0)
    assert [m.rx for _, moving in found for m in moving] == [10.0, 0.0]


def test_the_busiest_come_first_and_equals_by_name() -> None:
    rates = Rates()
    rates.look([network(("b", 0, 0), ("a", 0, 0), ("in", 0, 0), ("out", 0, 0))], 0.0)
    ((_, moving),) = rates.look([network(("b", 0, 0), ("a", 0, 0), ("in", 900, 0), ("out", 0, 1000))], 1.0)
    order = {sort: [m.peer.name for m in _sorted(moving, sort)] for sort in ("rate", "in", "out", "name")}
    assert order == {
        "rate": ["out", "in", "a", "b"],
        "in": ["in", "a", "b", "out"],
        "out": ["out", "a", "b", "in"],
        "name": ["a", "b", "in", "out"],
    }
    page = _page([(network(), moving)], "rate").splitlines()
    assert page[0] == "office  up  4 of 4 online  4 direct  in 900 B/s  out 1 kB/s"
    assert [line.split()[0] for line in page[1:]] == ["PEER", "out", "in", "a", "b"]
    assert "1 kB/s" in page[2] and "900 B/s" in page[3]


def test_each_look_is_a_line_for_scripts(sm: Command, tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, [tui_scenarios.status(network(("nas", 5, 5)), network(name="lab"))]):
        done = sm("top", "office", "--count", "2", "--interval", "0.2", "--json", "--state-dir", tmp_path)
    assert done.code == 0, done
    looks = [json.loads(line) for line in done.out.splitlines()]
    assert len(looks) == 2 and all(look["schema"] == "shadowmesh.top/1" for look in looks)
    (office,) = looks[-1]["networks"]
    assert office["name"] == "office" and office["rx_rate"] == 0.0
    (nas,) = office["peers"]
    assert (nas["name"], nas["rx_rate"], nas["tx_bytes"]) == ("nas", 0.0, 5)


def test_what_cant_be_shown_is_refused_first(sm: Command, tmp_path: Path) -> None:
    sm("top", "--sort", "speed", "--state-dir", tmp_path).refused(2, "--sort 'speed' isn't usable", "say rate, in, out")
    sm("top", "--state-dir", tmp_path).refused(3, "no daemon answers")


def test_a_screenful_fits_the_terminal_and_takes_the_place_of_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "80")
    Call().screenful(None, "\n".join(f"line {n}" for n in range(10)))
    written = capsys.readouterr().out
    assert written.startswith("\x1b[H") and "\x1b[2J" not in written, "it doesn't flicker"
    shown = written.replace("\x1b[H\x1b[?7l", "").replace("\x1b[J\x1b[?7h", "").replace("\x1b[K", "").splitlines()
    assert shown == ["line 0", "line 1", "line 2", "… 7 lines more"]
    Call().screenful(None, "a\x1bb")
    assert "a\\x1bb\x1b[K\n" in capsys.readouterr().out


def test_a_daemon_that_starts_anew_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeDaemon(tmp_path, [tui_scenarios.status(network(("nas", 5, 5)))]) as daemon:
        turns = iter((daemon.stop, daemon.start, lambda: None))
        monkeypatch.setattr(top.time, "sleep", lambda seconds: next(turns)())
        top.top(Call(state_dir=tmp_path), interval=0.2, count=1)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"no daemon answers in {tmp_path}; it is asked again"]
    assert printed.out.startswith("office  up  1 of 1 online")
