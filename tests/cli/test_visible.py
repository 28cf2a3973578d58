"""Text from outside is never a command to the terminal, whichever way it is printed; errors as lines and as documents."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
import tui_scenarios
from fake_daemon import FakeDaemon
from msgspec.structs import replace

from shadowmesh.cli import base, logs
from shadowmesh.cli.base import Call, details, table
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import is_safe, json_text

if TYPE_CHECKING:
    from clikit import Command

# C0 and DEL, C1, bidirectional, a tag beyond the first plane, a lone surrogate
EVIL = "\x1b[2Jx\r\x00\x7f\x9b31m\u202egpj\U000e0041\udcff"


def shown(text: str) -> None:
    assert text and is_safe(text.replace("\n", "")), ascii(text)


def test_nothing_printed_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    for call in (Call(), Call(json=True)):
        call.done("x/1", {EVIL: EVIL}, f"{EVIL}\nand {EVIL}")
        call.line({EVIL: EVIL}, EVIL)
        shown(capsys.readouterr().out)
    Call().note(EVIL)
    shown(capsys.readouterr().err)
    for as_json in (False, True):
        with pytest.raises(SystemExit):
            base.fail(ShadowMeshError("x", EVIL, EVIL), as_json=as_json)
        shown(capsys.readouterr().err)
    shown(table((EVIL,), [[EVIL]]))
    shown(details({"name": [EVIL]}))


def test_a_document_has_the_same_text_as_before() -> None:
    document = {"name": EVIL, "größe": "机器 👩\u200d💻"}
    assert json.loads(json_text(document)) == document
    assert "größe" in json_text(document) and "\\u202e" in json_text(document)


def test_columns_stand_straight_whatever_is_in_them() -> None:
    first, second = table(("A", "B"), [["\x1b[1m", "x"]]).splitlines()
    assert first.index("B") == second.rindex("x")


def test_what_a_daemon_passes_on_is_shown_as_it_is(sm: Command, tmp_path: Path) -> None:
    evil = EVIL[:-1]
    peer = replace(
        tui_scenarios.peer("nas", 1, tui_scenarios.Reason.DIRECT_LAN), name=evil, reason=evil, explanation=evil
    )
    network = tui_scenarios.network((peer,), name=evil, error=evil)
    why = replace(tui_scenarios.why_of(peer), history=(evil,))
    with FakeDaemon(tmp_path, [tui_scenarios.status(network, warnings=(evil,))]) as daemon:
        daemon.whys["nas"] = why
        daemon.pings["nas"] = [replace(tui_scenarios.answers(1.0)[0], reason=evil)]
        daemon.refusals["up"] = ShadowMeshError("x", evil, evil)
        for verb in ("status", "peers", "why nas", "ping nas"):
            for more in ((), ("--json",)):
                done = sm(*verb.split(), *more, "--state-dir", tmp_path)
                assert done.code == 0, done
                shown(done.out)
        shown(sm("up", "--state-dir", tmp_path).err)


def test_a_network_that_waits_for_approval_has_a_line_that_reads(sm: Command, tmp_path: Path) -> None:
    waiting = replace(
        tui_scenarios.network((), name="guarded", state="pending-approval", ip="10.30.0.2", interface=""), map_serial=0
    )
    with FakeDaemon(tmp_path, [tui_scenarios.status(waiting)]):
        first, *_ = sm("status", "--state-dir", tmp_path).out.splitlines()
    assert first == "guarded  10.30.0.2  pending-approval  controller connected"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_log_is_text_too(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    try:
        logs.set_up(Call(color=False))
        try:
            raise OSError(EVIL)
        except OSError:
            structlog.get_logger().exception(f"said {EVIL}", peer=EVIL, more=[EVIL], why=OSError(EVIL))
    finally:
        structlog.reset_defaults()
        logging.shutdown()
    written = capfd.readouterr().err  # to the descriptor itself
    shown(written)
    assert "Traceback" in written


# errors as documents


def test_an_error_is_a_document_where_documents_are_asked_for(sm: Command, tmp_path: Path) -> None:
    failed = sm("status", "--state-dir", tmp_path, "--json")
    document = json.loads(failed.err)
    assert document.pop("what") and document.pop("remedy")
    assert document == {"schema": "shadowmesh.error/1", "code": "daemon_unreachable", "exit": 3}
    wrong = sm("network", "create", "--json")
    assert json.loads(wrong.err)["code"] == "wrong_use" and wrong.out == ""
    plain = sm("lab", "exec", "h1", "--lab", "none-such", "--", "ls", "--json")
    assert plain.err.startswith("error: "), "that --json is the program's"


@pytest.mark.parametrize("kind", Kind)
def test_an_error_of_many_lines_is_one_line_in_either_form(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    error = ShadowMeshError("x", "one\ntwo", "three\nfour", kind=kind)
    for as_json in (False, True):
        with pytest.raises(SystemExit) as end:
            base.fail(error, as_json=as_json)
        assert end.value.code == kind.value and capsys.readouterr().err.count("\n") == 1
