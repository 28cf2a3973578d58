"""`shadowmesh diff` and `apply`: a controller as a file, against a real one on loopback."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.client_api.rest import ControllerClient

if TYPE_CHECKING:
    from clikit import Command, Controller

FAILED, USAGE, NOT_FOUND, CONFLICT, DIFFERS = 1, 2, 5, 6, 8

FILE = """
templates:
  decl-branch:
    description: a branch
    settings: {approval: true, max_clients: 40}
groups:
  decl-ops:
    description: on call
    users: [decl-a@example.org]
networks:
  decl-one:
    template: decl-branch
    subnet: 10.77.1.0/24
    max_clients: 41
    members:
      decl-a@example.org: owner
      decl-b@example.org: {role: guest, permissions: [network.view, logs.view]}
    groups:
      decl-ops: member
  decl-two:
    template: lab
    description: of two
"""

# Nine lines, a thousand million values.
BOMB = "templates:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def people(controller: Controller) -> None:
    for name in ("decl-a@example.org", "decl-b@example.org", "decl-c@example.org"):
        if name not in controller("user", "list").out:
            controller("user", "add", name)


def gone(controller: Controller) -> None:
    """What the file makes is there no more."""
    for network in ("decl-one", "decl-two", "decl-extra"):
        controller("network", "delete", network, "--yes")
    controller("group", "delete", "decl-ops", "--yes")
    controller("template", "delete", "decl-branch")


def test_a_file_is_applied_once_and_then_nothing_differs(controller: Controller, people: None, tmp_path: Path) -> None:
    gone(controller)
    file = tmp_path / "networks.yaml"
    file.write_text(FILE)
    shown = controller("diff", file)
    assert shown.code == DIFFERS
    for line in ("+ network decl-one", "    template: decl-branch", "+ template decl-branch", "+ user decl-a@example.org of group decl-ops",
                 "+ member decl-b@example.org of decl-one", "    role: guest (logs.view, network.view)", "8 to make"):  # fmt: skip
        assert line in shown.out, shown.out
    controller("network", "show", "decl-one").refused(NOT_FOUND)
    assert controller("apply", file).code == USAGE, "nobody is there to answer"
    controller("network", "show", "decl-one").refused(NOT_FOUND)
    done = controller("apply", file, "--yes", "--json").document("apply/1")
    assert len(done["changes"]) == 8
    one = controller("network", "show", "decl-one", "--json").document("network/1")
    assert (one["approval"], one["max_clients"], one["subnet"]) == (True, 41, "10.77.1.0/24")
    before = len(controller("audit", "list", "--json").document("audit/1")["entries"])
    assert controller("diff", file).code == 0 and "nothing differs" in controller("diff", file).out
    again = controller("apply", file, "--yes")
    assert again.code == 0 and "nothing was changed" in again.out
    assert len(controller("audit", "list", "--json").document("audit/1")["entries"]) == before


def test_drift_is_shown_and_set_right(controller: Controller, people: None, tmp_path: Path) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text(FILE)
    controller("apply", file, "--yes")
    controller("network", "set", "decl-one", "--max-clients", "99", "--no-approval")
    controller("member", "set-role", "decl-one", "decl-b@example.org", "--role", "member")
    shown = controller("diff", file, "--json").document("diff/1", DIFFERS)
    changes = {(c["action"], c["kind"], c["name"]): c["fields"] for c in shown["changes"]}
    assert changes[("set", "network", "decl-one")] == {
        "approval": {"before": False, "after": True},
        "max_clients": {"before": 99, "after": 41},
    }
    assert ("set", "member", "decl-b@example.org") in changes and len(changes) == 2
    assert "max_clients: 99 → 41" in controller("diff", file).out
    assert controller("apply", file, "--yes").code == 0 and controller("diff", file).code == 0


def test_what_the_file_doesnt_name_stays_unless_it_says_prune(
    controller: Controller, people: None, tmp_path: Path
) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text(FILE)
    controller("apply", file, "--yes")
    controller("member", "add", "decl-one", "decl-c@example.org", "--role", "guest")
    left = controller("diff", file)
    assert left.code == 0 and "without --prune" in left.err
    members = "networks:\n  decl-one:\n    members:\n      decl-a@example.org: owner\n"
    exported = controller("diff", "--export").out
    (tmp_path / "all.yaml").write_text(exported)
    assert controller("diff", tmp_path / "all.yaml", "--prune").code == 0, "what is exported is what is there"
    other = exported.replace("      decl-c@example.org: guest\n", "")
    assert other != exported
    (tmp_path / "other.yaml").write_text("prune: true\n" + other)
    shown = controller("diff", tmp_path / "other.yaml")
    assert (
        shown.code == DIFFERS and "- member decl-c@example.org of decl-one" in shown.out and "1 to remove" in shown.out
    )
    assert controller("apply", tmp_path / "other.yaml", "--yes").code == 0
    assert "decl-c@example.org" not in controller("member", "list", "decl-one").out
    assert controller("apply", "-", "--yes", stdin=members).code == 0, "other networks stay"
    assert controller("network", "show", "decl-two").code == 0


@pytest.mark.parametrize("section", ["networks", "groups", "templates"])
def test_a_section_with_nothing_behind_its_key_removes_nothing(controller: Controller, section: str) -> None:
    for name in ("network", "group", "template"):
        controller(name, "create", "decl-extra")
    assert controller("diff", "-", stdin=f"prune: true\n{section}:\n  # one: {{}}\n").code == 0
    assert controller("diff", "-", stdin=f"prune: true\n{section}: {{}}\n").code == DIFFERS


def test_a_network_that_isnt_named_is_removed_only_by_prune(controller: Controller, tmp_path: Path) -> None:
    controller("network", "create", "decl-extra")
    exported = controller("diff", "--export", "--json").document("state/1")
    del exported["networks"]["decl-extra"]
    (tmp_path / "f.json").write_text(json.dumps(exported))
    assert controller("diff", tmp_path / "f.json").code == 0
    shown = controller("diff", tmp_path / "f.json", "--prune")
    assert shown.code == DIFFERS and shown.out.startswith("- network decl-extra\n")
    assert controller("apply", tmp_path / "f.json", "--prune", "--yes").code == 0
    controller("network", "show", "decl-extra").refused(NOT_FOUND)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("netwroks: {}\n", ("line 1", "did you mean 'networks'?")),
        ("networks:\n  a:\n    subnett: 10.0.0.0/24\n", ("line 3", "did you mean 'subnet'?")),
        ("networks:\n  a:\n    max_clients: lots\n", ("line 3", "max_clients")),
        ("networks:\n  a:\n    subnet: 10.0.0.5/24\n", ("line 3", "subnet")),
        ("networks:\n  a:\n    members:\n      x@example.org: king\n", ("line 4",)),
        ("networks:\n  a:\n    members:\n      nobody: owner\n", ("line 4",)),
        ("networks:\n  a:\n    template: nowhere\n", ("line 3", "template list")),
        ("networks:\n  a:\n    groups:\n      decl-none: guest\n", ("line 4", "groups")),
        ("networks:\n  a: {}\n  A: {}\n", ("line 3", "twice")),
        ("templates:\n  office: {}\n", ("line 2", "every controller has")),
        ("relays:\n  nowhere: {draining: true}\n", ("line 2", "relay run")),
        ("plans:\n  a: {monthly_bytes: lots}\n", ("line 2", "is no size: write it as 500MB")),
        ("plans:\n  a: {relay_kbit: fast}\n", ("line 2", "is no rate")),
        ("networks:\n  a: {plan: nowhere}\n", ("line 2", "there is no plan 'nowhere'")),
        ("settings: {mfa_required: [king]}\n", ("line 1", "mfa_required")),
        ("settings: {mfa: [admin]}\n", ("line 1", "there is mfa_required")),
        ("prune: maybe\n", ("line 1", "true or false")),
        ("networks: [\n", ("line", "not YAML")),
        ("networks:\n  a:\n    description: 2026-13-45\n", ("line 3", "timestamp", "quotes")),
        ("networks:\n  a:\n    description: 0x_\n", ("line 3", "int")),
        ("networks:\n  a:\n    max_clients: " + "9" * 5000 + "\n", ("line 3", "int")),
        ("networks:\n  a:\n    approval: !!bool maybe\n", ("line 3", "bool")),
        ("networks:\n  a:\n    description: !!timestamp soon\n", ("line 3", "timestamp")),
        ("networks: &a\n  b: *a\n", ("line 1", "nested too deep")),
        (BOMB, ("line 2", "aliases")),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line_and_nothing_is_done(
    controller: Controller, text: str, words: tuple[str, ...]
) -> None:
    controller("diff", "-", stdin=text).refused(USAGE, *words)
    controller("apply", "-", "--yes", stdin=text).refused(USAGE, *words)


SETTINGS = """
settings: {mfa_required: [admin]}
plans:
  decl-plan: {max_clients: 50, monthly_bytes: 1.5TB, relay_kbit: 10mbit}
groups:
  decl-staff: {description: by day}
networks:
  decl-paid: {subnet: 10.77.9.0/24, plan: decl-plan}
"""


def test_plans_settings_and_descriptions_are_in_the_file_too(controller: Controller, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(SETTINGS)
    shown = controller("diff", file)
    assert shown.code == DIFFERS
    for line in ("+ plan decl-plan", "    monthly_bytes: 1500000000000", "    relay_kbit: 10000", "~ plan decl-plan of decl-paid",
                 "~ settings controller", "    description: by day", "    mfa_required: none → admin", "+ group decl-staff"):  # fmt: skip
        assert line in shown.out, shown.out
    assert controller("apply", file, "--yes").code == 0 and controller("diff", file).code == 0
    assert controller("controller", "settings", "--json").document("controller-settings/1")["mfa_required"] == ["admin"]
    assert ", plan decl-plan" in controller("usage", "decl-paid").out
    exported = controller("diff", "--export").out
    assert "    plan: decl-plan\n" in exported and "  mfa_required:\n  - admin\n" in exported
    assert controller("diff", "-", stdin=exported).code == 0, "what is exported is what is there"
    changed = SETTINGS.replace("[admin]", "[]").replace("by day", "by night").replace("plan: decl-plan", "plan: null")
    shown = controller("diff", "-", stdin=changed)
    for line in ("    description: by day → by night", "    plan: decl-plan → -", "    mfa_required: admin → none", "3 to change"):  # fmt: skip
        assert line in shown.out, shown.out
    assert controller("apply", "-", "--yes", stdin=changed).code == 0
    assert controller("group", "show", "decl-staff", "--json").document("group/1")["description"] == "by night"
    left = "plans: {}\n"
    assert "- plan decl-plan" in controller("diff", "-", "--prune", stdin=left).out
    assert controller("apply", "-", "--prune", "--yes", stdin=left).code == 0
    assert "decl-plan" not in controller("plan", "list").out


SECRETS = ("whsec_" + "QUJD" * 11, "whsec_" + "REVG" * 11)
PLACES = ("https://192.0.2.9/in?token=hidden-1", "https://192.0.2.9/in?token=hidden-2")
SINKS = """
networks:
  decl-sinks:
    webhooks:
      chat: {url: {env: DECL_URL}, secret: {file: secrets/chat}, events: [client_online]}
webhooks:
  decl-siem: {url: {env: DECL_URL}, secret: {file: secrets/chat}, stream: audit}
syslog:
  decl-logs: {url: "udp://192.0.2.9:514", stream: logs}
"""


def test_webhooks_and_syslog_are_in_the_file_and_their_secrets_are_not_seen(
    controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sink in controller("webhook", "list", "--json").document("webhooks/1")["webhooks"]:
        controller("webhook", "delete", sink["id"])
    controller("network", "delete", "decl-sinks", "--yes")
    file, secret = tmp_path / "all.yaml", tmp_path / "secrets" / "chat"
    secret.parent.mkdir()
    secret.write_text(SECRETS[0] + "\n")
    file.write_text(SINKS)
    lines = [f"{file}, line {number}: DECL_URL isn't in the environment" for number in (5, 7)]
    controller("diff", file).refused_lines(USAGE, *lines)
    monkeypatch.setenv("DECL_URL", PLACES[0])
    told = []

    def run(*words: Any, code: int = 0, **more: Any) -> str:
        got = controller(*words, **more)
        assert got.code == code, got.err
        told.append(got.out + got.err)
        return got.out

    shown = run("diff", file, code=DIFFERS)
    for line in (
        "+ webhook chat of decl-sinks",
        "+ webhook decl-siem",
        "+ syslog decl-logs",
        "    url: https://192.0.2.9/…",
    ):
        assert line in shown, shown
    run("apply", file, "--yes", "--json")
    assert "nothing differs" in run("diff", file) and "nothing was changed" in run("apply", file, "--yes")
    before = {s["name"]: s["id"] for s in controller("webhook", "list", "--json").document("webhooks/1")["webhooks"]}
    monkeypatch.setenv("DECL_URL", PLACES[1])
    secret.write_text(SECRETS[1])
    shown = run("diff", file, code=DIFFERS)
    assert "~ webhook chat of decl-sinks\n    url: https://192.0.2.9 → https://192.0.2.9/… (another)\n" in shown
    assert "    secret: … → … (another)\n" in shown and "2 to change" in shown
    run("apply", file, "--yes")
    assert "nothing differs" in run("diff", file)
    after = {s["name"]: s["id"] for s in controller("webhook", "list", "--json").document("webhooks/1")["webhooks"]}
    assert before == after, "the same ones, which lose nothing that waits"
    exported = run("diff", "--export")
    assert "nothing differs" in run("diff", "-", "--prune", stdin=exported)
    assert "- webhook chat of decl-sinks" in run(
        "diff", "-", "--prune", stdin="networks: {decl-sinks: {webhooks: {}}}\n", code=DIFFERS
    )
    assert run("diff", "-", stdin="webhooks: {}\nsyslog: {}\n").startswith("nothing differs")
    run("apply", "-", "--prune", "--yes", stdin="webhooks: {}\nsyslog: {}\n")
    left = controller("webhook", "list", "--json").document("webhooks/1")["webhooks"]
    assert [sink["name"] for sink in left] == ["chat"], "the network's is in another section"
    everything = "".join([*told, controller("audit", "list", "--json").out])
    assert not [word for word in (*SECRETS, "hidden-") if word in everything]
    controller("network", "delete", "decl-sinks", "--yes")


MISTAKEN = """
prune: perhaps
netwroks: {}
networks:
  decl-m:
    subnet: 10.0.0.5/24
    max_clients: lots
    template: nowhere
    relay: nowhere
    description: 2026-13-45
    members: {nobody: owner, decl-none@example.org: king, decl-unknown@example.org: owner}
    webhooks:
      chat: {secret: whsec_in_the_open, stream: audit}
plans:
  a: {monthly_bytes: lots, relay_kbit: fast}
templates:
  office: {}
  a: {settings: {approval: 7}, description: [1]}
relays: {nowhere: {draining: true}}
syslog: {logs: {}}
"""


def test_all_mistakes_of_a_file_are_told_in_one_run(controller: Controller) -> None:
    """Those that the file shows, and those that only the controller knows of, in the order of the file."""
    for verb in (("diff",), ("apply", "--yes")):
        told = controller(*verb, "-", stdin=MISTAKEN)
        assert told.code == USAGE
        lines = told.err.splitlines()
        assert lines[-1].startswith(f"error: stdin has {len(lines) - 1} mistakes; "), told.err
        numbers = [int(line.partition(", line ")[2].partition(":")[0]) for line in lines[:-1]]
        assert numbers == sorted(numbers)
        for number, word in ((2, "prune is neither"), (3, "did you mean 'networks'"), (6, "10.0.0.5/24"), (7, "max_clients"),
                             (8, "no template"), (9, "no relay"), (10, "timestamp"), (11, "nobody"), (11, "king"),
                             (11, "no user decl-unknown@example.org"), (13, "stands in the file"), (13, "whole controller"),
                             (15, "no size"), (15, "no rate"), (17, "every controller has"), (18, "approval"),
                             (18, "description"), (19, "no relay"), (20, "url isn't said")):  # fmt: skip
            assert [1 for n, line in zip(numbers, lines, strict=False) if n == number and word in line], (
                word,
                told.err,
            )
        assert "whsec_in_the_open" not in told.err
        assert len(set(lines)) == len(lines)
    controller("network", "show", "decl-m").refused(NOT_FOUND)
    document = json.loads(controller("diff", "-", "--json", stdin=MISTAKEN).err)
    assert document["code"] == "bad_file" and len(document["details"]) == len(lines) - 1


def test_the_mistakes_of_a_file_are_told_where_the_controller_is_away(process: Command, tmp_path: Path) -> None:
    got = process("diff", "-", "--data-dir", tmp_path, stdin=MISTAKEN)
    assert got.code == USAGE and "did you mean 'networks'" in got.err


def test_two_who_apply_at_once_take_turns_and_the_second_is_told_what_to_do(
    controller: Controller, tmp_path: Path
) -> None:
    text = "templates:\n  decl-turn: {description: of two}\n"
    with ControllerClient.local(controller.data_dir) as other:
        turn = other.apply_turn()
        refused = controller("apply", "-", "--yes", stdin=text)
        assert refused.code == CONFLICT and refused.err.splitlines()[-1].startswith("error: "), refused.err
        assert "applies a file at this moment" in refused.err and "apply again" in refused.err
        assert "decl-turn" not in controller("template", "list").out, "nothing of it was done"
        assert controller("diff", "-", stdin=text).code == DIFFERS, "to look is nobody's turn"
        other.apply_done(turn.turn)
    assert controller("apply", "-", "--yes", stdin=text).code == 0
    assert controller("apply", "-", "--prune", "--yes", stdin="templates: {}\n").code == 0, "the turn was given up"


def test_what_others_changed_since_it_was_looked_at_isnt_overwritten_unseen(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the plan that somebody says yes to and its first change another `apply` runs through."""
    text = "templates:\n  decl-seen: {description: mine}\n"
    taking = ControllerClient.apply_turn

    def late(client: ControllerClient, turn: str | None = None) -> Any:
        monkeypatch.setattr(ControllerClient, "apply_turn", taking)
        assert controller("apply", "-", "--yes", stdin=text.replace("mine", "theirs")).code == 0
        return taking(client, turn)

    monkeypatch.setattr(ControllerClient, "apply_turn", late)
    stopped = controller("apply", "-", "--yes", stdin=text)
    assert stopped.code == CONFLICT and "since that was looked at; nothing was changed; apply again" in stopped.err
    assert "theirs" in controller("template", "show", "decl-seen").out
    assert "theirs → mine" in controller("diff", "-", stdin=text).out
    assert controller("apply", "-", "--yes", stdin=text).code == 0
    controller("template", "delete", "decl-seen")


def test_of_many_who_apply_at_once_each_is_done_or_told_and_nothing_is_by_halves(
    controller: Controller, process: Command
) -> None:
    """Four files that make one network in four ways, by processes of their own."""
    text = "networks:\n  decl-race:\n    subnet: 10.79.0.0/24\n    description: '{n}'\n    max_clients: 1{n}\n"
    with ThreadPoolExecutor(4) as pool:
        done = list(
            pool.map(
                lambda n: process("apply", "-", "--yes", "--data-dir", controller.data_dir, stdin=text.format(n=n)),
                range(4),
            )
        )
    assert {result.code for result in done} <= {0, CONFLICT} and 0 in {result.code for result in done}
    assert all("again" in result.err for result in done if result.code == CONFLICT), [r.err for r in done]
    network = controller("network", "show", "decl-race", "--json").document("network/1")
    assert network["max_clients"] == 10 + int(network["description"]), "one file's, whole"
    controller("network", "delete", "decl-race", "--yes")


def test_wrong_use_is_told(controller: Controller, tmp_path: Path) -> None:
    controller("diff").refused(USAGE, "--export")
    controller("diff", tmp_path / "none.yaml").refused(USAGE, "can't be read")
    assert controller("diff", "-", stdin="").code == 0


def test_an_apply_that_stops_in_the_middle_says_where_and_goes_on_when_it_can(controller: Controller) -> None:
    """A subnet that covers an address of this host's is refused by the controller."""
    text = "templates:\n  decl-mid: {}\nnetworks:\n  decl-mid: {subnet: 127.0.0.0/24}\n"
    stopped = controller("apply", "-", "--yes", stdin=text)
    assert (
        stopped.code != 0 and "1 of 2 changes were made" in stopped.err and "it goes on where this ended" in stopped.err
    )
    fixed = text.replace("127.0.0.0", "10.78.0.0")
    done = controller("apply", "-", "--yes", "--json", stdin=fixed).document("apply/1")
    assert [c["kind"] for c in done["changes"]] == ["network"]


def test_an_overlap_is_told_before_it_is_made(controller: Controller) -> None:
    file = "networks:\n  decl-over: {subnet: 10.79.1.0/24}\n  decl-under: {subnet: 10.79.0.0/16}\n"
    shown = controller("diff", "-", stdin=file)
    assert shown.code == DIFFERS and "decl-over (10.79.1.0/24) would overlap decl-under (10.79.0.0/16)" in shown.err
    asked = controller("apply", "-", stdin=file)
    assert asked.code == USAGE and "would overlap" in asked.err
