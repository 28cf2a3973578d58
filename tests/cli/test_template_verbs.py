"""`shadowmesh template …` and `network create --template`, against a real controller on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clikit import Controller

USAGE, NOT_FOUND, CONFLICT = 2, 5, 6


def test_a_network_is_made_by_a_template_and_flags_stand_over_it(controller: Controller) -> None:
    made = controller("network", "create", "tpl-a", "--template", "lab", "--json").document("network/1")
    assert (made["approval"], made["code_approval"], made["max_clients"], made["reports"]) == (
        False,
        False,
        200,
        "full",
    )
    over = controller(
        "network", "create", "tpl-b", "--template", "office", "--no-approval", "--max-clients", "7", "--json"
    ).document("network/1")
    assert (over["approval"], over["max_clients"], over["reports"]) == (False, 7, "health")
    controller("network", "create", "tpl-c", "--template", "ofice").refused(NOT_FOUND, "template list")
    controller("network", "show", "tpl-c").refused(NOT_FOUND)


def test_own_templates_are_made_shown_and_deleted(controller: Controller) -> None:
    assert {"home", "office", "servers", "lab"} <= {
        t["name"]
        for t in controller("template", "list", "--json").document("templates/1")["templates"]
        if t["built_in"]
    }
    made = controller(
        "template", "create", "branch", "--no-p2p", "--max-clients", "50", "--about", "a branch", "--json"
    )
    assert made.document("template/1")["settings"] == {"p2p_enabled": False, "max_clients": 50}
    controller("template", "create", "Branch").refused(CONFLICT, "already")
    controller("template", "create", "Office").refused(CONFLICT, "every controller has")
    controller("template", "delete", "office").refused(CONFLICT)
    assert "max_clients 50" in controller("template", "show", "BRANCH").out
    controller("network", "create", "tpl-like", "--reports", "off", "--approval")
    like = controller("template", "create", "liked", "--like", "tpl-like", "--no-approval", "--json").document(
        "template/1"
    )
    assert like["settings"]["reports"] == "off" and like["settings"]["approval"] is False
    controller("template", "delete", "branch")
    controller("template", "show", "branch").refused(NOT_FOUND)
    controller("network", "create", "x", "--template", "branch").refused(NOT_FOUND)


def test_what_is_exported_is_imported_as_yaml_and_as_json(controller: Controller, tmp_path: Path) -> None:
    controller("template", "create", "carried", "--approval", "--reports", "full", "--about", "Über alles")
    was = controller("template", "show", "carried", "--json").document("template/1")["settings"]
    as_yaml = controller("template", "export", "carried").out
    as_json = controller("template", "export", "carried", "--json").out
    controller("template", "export", "carried", "--out", tmp_path / "t.yaml")
    assert "Über alles" in as_yaml and json.loads(as_json)["schema"] == "shadowmesh.template-file/1"
    for text in (as_yaml, as_json, (tmp_path / "t.yaml").read_text()):
        controller("template", "delete", "carried")
        (found,) = controller("template", "import", "-", "--json", stdin=text).document("templates/1")["templates"]
        assert (found["name"], found["settings"], found["description"]) == ("carried", was, "Über alles")
    controller("template", "import", "-", stdin=as_yaml)  # again changes nothing


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("templates:\n  a:\n    settings:\n      aproval: true\n", ("line 4", "did you mean 'approval'?")),
        ("templates:\n  a:\n    settings:\n      max_clients: many\n", ("line 4", "max_clients")),
        ("template:\n  a: {}\n", ("line 1", "did you mean 'templates'?")),
        ("templates: [a]\n", ("line 1", "mapping")),
        ("templates:\n  a: {}\n  a: {}\n", ("line 3", "twice")),
        ("a: [", ("line", "not YAML")),
        ("", ("no templates",)),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_line(controller: Controller, text: str, words: tuple[str, ...]) -> None:
    controller("template", "import", "-", stdin=text).refused(USAGE, *words)


def test_of_a_file_with_something_wrong_nothing_is_taken(controller: Controller) -> None:
    text = "templates:\n  fine: {}\n  wrong: {settings: {reports: loud}}\n"
    controller("template", "import", "-", stdin=text).refused(USAGE, "line 3")
    controller("template", "show", "fine").refused(NOT_FOUND)
