"""The help pages: whole on a small terminal, with an example that works for each verb; and what a shell is offered."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tui_scenarios
import typer.main
from fake_daemon import FakeDaemon

from shadowmesh.cli import main
from shadowmesh.cli.pages import LISTED
from shadowmesh.lab.nat import NatType
from shadowmesh.model.reasons import Reason

if TYPE_CHECKING:
    from clikit import Command, Controller


def _verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, child in below.items():
        yield from _verbs(child, (*path, name))


TOP = typer.main.get_command(main.build(None))
VERBS = dict(_verbs(TOP))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_top_page_is_whole_on_80_by_24_and_names_everything(sm: Command, arguments: list[str]) -> None:
    shown = sm(*arguments).out
    lines = shown.splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80, "a prompt stands below it"
    assert sorted(LISTED) == sorted(TOP.commands)  # type: ignore[attr-defined]
    assert all(re.search(rf"(^|\s){re.escape(name)}\s", shown, re.MULTILINE) for name in LISTED)


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_verb_has_an_example_that_it_takes(sm: Command, path: tuple[str, ...]) -> None:
    page = sm(*path, "--help").out
    _, _, examples = page.partition("Example")
    lines = [line.strip() for line in examples.replace("\\\n", "").splitlines()[1:]]
    assert lines, "an example"
    for line in lines:
        program, *words = shlex.split(line.partition(" > ")[0])
        assert program == "shadowmesh" and tuple(words[: len(path)]) == path
        VERBS[path].make_context(" ".join(path), words[len(path) :])  # the parser takes it
    assert "Everywhere: --json" in page and "Show tracebacks" not in page
    assert not re.search(r"Usage:.*[{}]", page) and max(map(len, page.splitlines())) <= 100


def test_a_nouns_page_has_whole_sentences(sm: Command) -> None:
    for noun in ("network", "client", "relay", "audit", "lab"):
        page = sm(noun, "--help").out
        assert page.startswith(f"Usage: shadowmesh {noun} VERB [ARGUMENTS]\n") and "..." not in page
        below = TOP.commands[noun].commands  # type: ignore[attr-defined]
        words = " ".join(page.split())
        assert all(" ".join((verb.help or "").partition("\n")[0].split()) in words for verb in below.values())


def test_what_holds_everywhere_is_explained_once(sm: Command) -> None:
    shown = sm("help", "options").out
    assert all(flag in shown for flag in ("--json", "--quiet", "--no-color", "--yes", "--debug"))
    flags = [o["flags"] for o in sm("help", "options", "--json").document("options/1")["options"]]
    assert "--json" in flags


@pytest.mark.parametrize(
    ("typed", "told"),
    [("log", "shadowmesh logs"), ("log office", "journalctl"), ("version", "--version"), ("netwrk", "'network'"),
     ("start", "shadowmesh up"), ("xyzzy", "shadowmesh --help")],
)  # fmt: skip
def test_what_people_type_instead_leads_to_what_they_want(sm: Command, typed: str, told: str) -> None:
    line = sm(*typed.split()).refused(2, told)
    assert "login" not in line


def test_no_colour_is_what_the_convention_says(sm: Command, tmp_path: Path) -> None:
    """https://no-color.org: any value that isn't empty."""
    for value in ("1", "please", "0", ""):
        sm("status", "--state-dir", tmp_path, env={"NO_COLOR": value}).refused(3, "no daemon answers")


# completion


@pytest.fixture
def offered(sm: Command) -> Any:
    def offered(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        found = sm(env=words | {"_SHADOWMESH_COMPLETE": "complete_bash"})
        assert found.err == ""
        return found.out.split()

    return offered


def test_a_shell_is_offered_what_the_daemon_knows(offered: Any, tmp_path: Path) -> None:
    office = tui_scenarios.network(tui_scenarios.office_peers(0))
    lab = tui_scenarios.network(tui_scenarios.office_peers(0)[:1], name="lab")
    here = f"--state-dir {tmp_path}"
    with FakeDaemon(tmp_path, [tui_scenarios.status(office, lab)]):
        assert offered(f"shadowmesh ping {here} p") == ["phone-ben", "printer"]
        assert offered(f"shadowmesh why {here} nas") == ["nas@lab", "nas@office"], "the name is in two networks"
        assert offered(f"shadowmesh down {here} ") == ["lab", "office"]
        assert {"lab", "office", "printer"} <= set(offered(f"shadowmesh wait {here} "))
    assert offered(f"shadowmesh ping {here} p") == [], "who can't be asked offers nothing"


def test_a_shell_is_offered_what_the_controller_knows(offered: Any, controller: Controller, tmp_path: Path) -> None:
    controller.network("offered", "198.18.50.0/24", "--approval")
    invite = controller.invite("offered")
    controller.sm("join", invite["invite"], "--name", "waits", "--state-dir", tmp_path)
    here = f"--data-dir {controller.data_dir}"
    assert "offered" in offered(f"shadowmesh network show {here} off")
    assert offered(f"shadowmesh client show {here} offered ") == ["waits"]
    assert offered(f"shadowmesh client approve {here} offered w") == ["waits"]
    assert invite["id"] in offered(f"shadowmesh network revoke-invite {here} offered inv")
    assert "admin@localhost" in offered(f"shadowmesh member add {here} offered adm")
    controller("network", "delete", "offered", "--yes")


def test_a_shell_is_offered_what_is_fixed(offered: Any) -> None:
    assert set(offered("shadowmesh lab nat s1 ")) == {kind.value for kind in NatType}
    assert offered("shadowmesh lab up --site port") == ["port_restricted"]
    assert offered("shadowmesh wait x --state ") == ["direct", "up"]
    assert set(offered("shadowmesh help reason relay.")) == {r.value for r in Reason if r.value.startswith("relay.")}
    assert offered("shadowmesh member add x y --role ") == ["guest", "member", "owner"]
    assert "options" in offered("shadowmesh help o")
    assert offered("shadowmesh completion f") == ["fish"]
