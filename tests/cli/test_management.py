"""Management against a real controller on loopback: what is refused, why, and that nothing is half-made."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clikit import on_a_terminal

if TYPE_CHECKING:
    from clikit import Command, Controller

USAGE, UNREACHABLE, NOT_ALLOWED, NOT_FOUND, CONFLICT = 2, 3, 4, 5, 6


@pytest.fixture(scope="module", autouse=True)
def office(controller: Controller) -> str:
    return controller.network("office", "198.18.0.0/24")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("network show nope", NOT_FOUND, "`shadowmesh network list` names them"),
        ("network show offcie", NOT_FOUND, "did you mean office? `shadowmesh network list` names them"),
        ("network create x --template offce", NOT_FOUND, "did you mean office?"),
        ("user enable admin@locahost", NOT_FOUND, "did you mean admin@localhost?"),
        ("access explain admin@locahost office", NOT_FOUND, "did you mean admin@localhost?"),
        ("network delete nope --yes", NOT_FOUND, "no network 'nope'"),
        ("network invite nope", NOT_FOUND, "no network 'nope'"),
        ("network rotate-key nope", NOT_FOUND, "no network 'nope'"),
        ("logs nope", NOT_FOUND, "`shadowmesh network list` names them"),
        ("logs office --client nobody", NOT_FOUND, "no client 'nobody'"),
        ("logs office --type worse", USAGE, "say connect or disconnect"),
        ("logs office --format xml", USAGE, "say lines or csv"),
        ("logs office --since 5", USAGE, "5s, 5m, 5h, 5d"),
        ("topology nope", NOT_FOUND, "`shadowmesh network list` names them"),
        ("network set office --reports all", USAGE, "off"),
        ("client list nope", NOT_FOUND, "no network 'nope'"),
        ("client show office nobody", NOT_FOUND, "`shadowmesh client list office` names them"),
        ("client approve office nobody", NOT_FOUND, "no client 'nobody'"),
        ("client remove office nobody --yes", NOT_FOUND, "no client 'nobody'"),
        ("network revoke-invite office inv_x", NOT_FOUND, "`shadowmesh network invites office` names them"),
        ("member add office nobody@example.org", NOT_FOUND, "no user"),
        ("member add office admin@localhost --role king", USAGE, "owner, member and guest"),
        ("user add me", USAGE, "NAME@HOST"),
        ("api-key revoke key_x", NOT_FOUND, "`shadowmesh api-key list` names them"),
        ("relay drain nope", NOT_FOUND, "no relay 'nope'"),
        ("controller drain https://nowhere.example", NOT_FOUND, "no node has the URL"),
        ("controller drain nope", NOT_FOUND, "`shadowmesh controller nodes` names them"),
        ("relay remove nope --yes", NOT_FOUND, "no relay 'nope'"),
        ("network create bad --subnet lan", USAGE, "10.42.0.0/24"),
        ("network create bad --subnet 10.0.0.1/24", USAGE, "did you mean 10.0.0.0/24?"),
        ("network create bad --subnet 10.0.0.0/31", USAGE, "/8 to /30"),
        ("network create bad --subnet 10.60.0.0", USAGE, "did you mean 10.60.0.0/24?"),
        ("network create bad --subnet 10.0.0.0/7", USAGE, "/8 to /30"),
        ("network create bad --subnet 10.0.0.0/0", USAGE, "/8 to /30"),
        ("network create net_bad --subnet 10.0.0.0/24", USAGE, "choose another name"),
        ("network create OFFICE --subnet 10.0.0.0/24", CONFLICT, "a network office already"),
        ("device show nobody", NOT_FOUND, "`shadowmesh device list` names them"),
        ("device remove nobody --yes", NOT_FOUND, "no device 'nobody'"),
        ("relay undrain nope", NOT_FOUND, "no relay 'nope'"),
        ("user enable nobody@example.org", NOT_FOUND, "`shadowmesh user list` names them"),
        ("network create bad!name --subnet 10.0.0.0/24", USAGE, "use letters, digits"),
        ("network create office --subnet 10.0.0.0/24", CONFLICT, "choose another name"),
        ("network set office", USAGE, "nothing to change"),
        ("network invite office --expires 0s", USAGE, "write it as 90s"),
        ("network invite office --expires 5", USAGE, "5s, 5m, 5h, 5d"),
        ("network invite office --expires 99999d", USAGE, "up to ten years"),
        ("network invite office --ip 10.0.0.1", CONFLICT, "198.18.0.0/24"),
        ("network invite office --ip x", USAGE, "give an IPv4 address"),
        ("network invite office --uses 2 --ip 198.18.0.9", USAGE, "one use"),
    ],
)
def test_what_is_refused(controller: Controller, arguments: str, code: int, words: str) -> None:
    controller(*arguments.split(), "--json").refused(code, words)


def test_refusals_left_nothing(controller: Controller) -> None:
    found = controller("network", "list", "--json").document("networks/1")
    assert "bad" not in {n["name"] for n in found["networks"]}
    assert controller("audit", "verify", "--json").document("audit-verdict/1")["ok"]
    assert "the chain holds; no client is connected" in controller("audit", "verify").out


@pytest.mark.parametrize("arguments", ["network delete nope", "client remove office nobody", "relay remove nope"])
def test_what_isnt_there_is_said_before_anything_is_asked(controller: Controller, arguments: str) -> None:
    controller(*arguments.split()).refused(NOT_FOUND, arguments.rsplit(maxsplit=1)[-1])


def test_a_question_that_nobody_can_answer_names_the_flag(controller: Controller, sm: Command, tmp_path: Path) -> None:
    assert sm("join", controller.invite("office")["invite"], "--name", "asked", "--state-dir", tmp_path).code == 0
    for arguments in ("network delete office", "client remove office asked"):
        controller(*arguments.split(), "--json").refused(USAGE, "--yes")
    assert "asked" in controller.clients("office")
    controller("client", "show", "office", "askd").refused(NOT_FOUND, "did you mean asked?")
    controller("client", "remove", "office", "asked", "--yes", "--json").document("client-removed/1")


def test_removing_a_client_says_where_else_the_machine_is(controller: Controller, sm: Command, tmp_path: Path) -> None:
    """And one command takes it out of all these."""
    for network, subnet in (("lab", "198.18.50.0/24"), ("home", "198.18.51.0/24")):
        controller.network(network, subnet)
    for network in ("office", "lab", "home"):
        assert sm("join", controller.invite(network)["invite"], "--name", "roamer", "--state-dir", tmp_path).code == 0
    removed = controller("client", "remove", "office", "roamer", "--yes")
    assert removed.out == "roamer: removed from office\n"
    assert "roamer@lab, roamer@home" in removed.err and "shadowmesh device remove dev_" in removed.err
    shown = controller("device", "show", "roamer", "--json").document("device/1")
    assert [m["network_name"] for m in shown["networks"]] == ["lab", "home"]
    assert "roamer" in controller("device", "list").out
    controller("device", "remove", "roamer").refused(USAGE, "--yes", "roamer@lab, roamer@home")
    gone = controller("device", "remove", "roamer", "--yes", "--json").document("device-removed/1")
    assert gone["id"] == shown["id"] and not controller.clients("lab") and not controller.clients("home")
    assert sm("join", controller.invite("lab")["invite"], "--name", "roamer", "--state-dir", tmp_path / "n").code == 0
    last = controller("client", "remove", "lab", "roamer", "--yes", "--json").document("client-removed/1")
    assert last["also_in"] == []
    for network in ("lab", "home"):
        controller("network", "delete", network, "--yes")


def test_a_further_node_says_that_it_is_one(controller: Controller, sm: Command, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text(sm("controller", "secrets", "export", "--data-dir", controller.data_dir).out)
    (tmp_path / "url").write_text(f"sqlite:///{controller.data_dir}/controller.db\n")
    made = sm(
        "controller", "init", "--data-dir", tmp_path / "two", "--public-url", "https://127.0.0.1:18444",
        "--join-secrets", secrets, "--database-url", f"@{tmp_path / 'url'}",
    )  # fmt: skip
    assert made.code == 0 and "a further node of a controller" in made.out and made.err == ""
    assert "password" not in made.out and controller.fingerprint in made.out


def test_a_user_who_was_shut_out_can_be_let_in_again(controller: Controller) -> None:
    controller("user", "add", "gone@example.org", "--json").document("user/1")
    disable = ("user", "disable", "gone@example.org", "--data-dir", str(controller.data_dir))
    code, seen = on_a_terminal(*disable, typed=b"n\n")
    assert code == 1 and "shut gone@example.org out, wherever they are signed in? [y/N]" in seen
    for verb, disabled in (("disable", True), ("enable", False)):
        assert controller("user", verb, "gone@example.org", "--yes").code == 0
        users = controller("user", "list", "--json").document("users/1")["users"]
        assert [u["disabled"] for u in users if u["email"] == "gone@example.org"] == [disabled]


def test_a_user_is_made_administrator_and_called_by_another_name(controller: Controller) -> None:
    controller("user", "add", "rise@example.org")
    controller("user", "set", "rise@example.org").refused(USAGE, "nothing to change")
    controller("user", "set", "admin@localhost", "--no-admin").refused(CONFLICT, "shadowmesh user set EMAIL --admin")
    risen = controller("user", "set", "rise@example.org", "--admin", "--name", "Rise")
    assert risen.out == "rise@example.org: is called Rise, is an administrator\n"
    down = controller("user", "set", "rise@example.org", "--no-admin", "--json").document("user/1")
    assert (down["admin"], down["name"]) == (False, "Rise")


def test_a_relay_token_is_listed_and_ended(controller: Controller) -> None:
    made = controller("relay", "token", "--uses", "7", "--network", "office", "--json").document("relay-token/1")
    (kept,) = [
        t for t in controller("relay", "tokens", "--json").document("relay-tokens/1")["tokens"] if t["id"] == made["id"]
    ]
    assert kept["uses_left"] == 7 and made["token"] not in str(kept)
    (line,) = [line for line in controller("relay", "tokens").out.splitlines() if made["id"] in line]
    assert "office" in line
    assert controller("relay", "revoke-token", made["id"]).out == f"{made['id']}: revoked\n"
    controller("relay", "revoke-token", made["id"]).refused(NOT_FOUND, "`shadowmesh relay tokens` names them")
    assert made["id"] not in controller("relay", "tokens").out


def test_the_audit_log_is_asked_for_what_one_looks_for(controller: Controller) -> None:
    controller("network", "create", "looked-for")
    controller("member", "add", "looked-for", "admin@localhost", "--role", "guest")
    controller("network", "delete", "looked-for", "--yes")

    def entries(*options: str) -> list[tuple[str, str]]:
        found = controller("audit", "list", *options, "--json").document("audit/1")["entries"]
        return [(e["action"], e["target"]) for e in found]

    assert entries("--on", "looked-for") == [
        ("network.create", "looked-for"), ("member.set", "admin@localhost"), ("network.delete", "looked-for"),
    ]  # fmt: skip
    assert entries("--on", "LOOKED-for", "--what", "network.d") == [("network.delete", "looked-for")]
    assert entries("--who", "nobody") == entries("--since", "1s", "--what", "controller.init") == []
    assert entries("--what", "controller.init") == entries("--what", "controller.init", "--since", "1h", "--limit", "1")


def test_what_a_network_is_in_the_way_of_is_said_at_once(controller: Controller) -> None:
    made = controller("network", "create", "twin", "--subnet", "198.18.0.0/25")
    assert made.code == 0 and "warning: no machine can be in it and in office (198.18.0.0/24)" in made.err
    controller("network", "delete", "twin", "--yes")


def test_lists_are_in_the_order_of_names(controller: Controller) -> None:
    for name, subnet in (("zebra", "198.18.30.0/24"), ("Alpaca", "198.18.31.0/24"), ("mole", "198.18.32.0/24")):
        controller.network(name, subnet)
    names = [n["name"] for n in controller("network", "list", "--json").document("networks/1")["networks"]]
    assert names == sorted(names, key=str.casefold) and "Alpaca" in names
    for name in ("zebra", "Alpaca", "mole"):
        controller("network", "delete", name, "--yes", "--json").document("network-deleted/1")


def test_words_and_not_a_pattern_say_what_a_name_may_be(controller: Controller, sm: Command, tmp_path: Path) -> None:
    for arguments in (
        ("client", "rename", "office", "x", "My PC"),
        ("network", "create", "My Net", "--subnet", "198.18.40.0/24"),
        ("network", "invite", "office", "--client-name", "My PC"),
    ):
        line = controller(*arguments).refused(USAGE, "at most 63")
        assert "^" not in line and "pattern" not in line
    controller("network", "create", "b\udcff", "--subnet", "198.18.40.0/24").refused(USAGE, "is not UTF-8")
    sm("join", "smi1_x", "--name", "b\udcff", "--state-dir", tmp_path).refused(USAGE, "is not UTF-8")


# invites that don't work


def join(sm: Command, invite: str, state: Path, *more: object, **options: str) -> object:
    return sm("join", invite, "--state-dir", state, *more, **options)


def expire(controller: Controller, invite_id: str) -> None:
    """The clock of a real controller isn't moved; the invite's is."""
    with sqlite3.connect(controller.data_dir / "controller.db", timeout=10) as db:
        assert db.execute("UPDATE invites SET expires_at = created_at WHERE id = ?", (invite_id,)).rowcount == 1
    db.close()


def test_why_an_invite_is_no_good_is_said_and_nobody_gets_in(
    controller: Controller, sm: Command, tmp_path: Path
) -> None:
    before = controller.clients("office")
    spoilt = {}
    for how in ("expired", "revoked"):
        spoilt[how] = controller.invite("office")
    expire(controller, spoilt["expired"]["id"])
    controller("network", "revoke-invite", "office", spoilt["revoked"]["id"], "--json").document("invite-revoked/1")
    for how, invite in spoilt.items():
        line = sm("join", "-", "--state-dir", tmp_path / how, stdin=invite["invite"]).refused(NOT_ALLOWED, how)
        assert "ask for a new one" in line
        by_code = ("--controller", controller.url, "--fingerprint", controller.fingerprint)
        sm("join", invite["code"], *by_code, "--state-dir", tmp_path / how).refused(NOT_ALLOWED, how)
    unknown = ("join", "office-zzzz-zzzzzzzz", "--controller", controller.url, "--state-dir", tmp_path / "u")
    sm(*unknown, "--fingerprint", controller.fingerprint).refused(NOT_ALLOWED, "not valid")
    sm(*unknown, "--fingerprint", "sha256:" + "0" * 64).refused(NOT_ALLOWED, controller.fingerprint, "administrator")
    sm(*unknown).refused(UNREACHABLE, "no authority that this machine trusts", "give its --fingerprint")
    assert controller.clients("office") == before
    assert all(enrolments(tmp_path / how) == 0 for how in spoilt), "no keys of what can't succeed are kept"


def enrolments(state: Path) -> int:
    with sqlite3.connect(state / "state.db") as db:
        (count,) = db.execute("SELECT count(*) FROM enrolments").fetchone()
    db.close()
    return int(count)


def test_join_before_the_daemon_and_what_another_try_says(controller: Controller, sm: Command, tmp_path: Path) -> None:
    invite, other, file = controller.invite("office"), controller.invite("office"), tmp_path / "invite"
    file.write_text(other["invite"] + "\n")
    joined = sm("join", "-", "--name", "early", "--state-dir", tmp_path / "a", "--json", stdin=invite["invite"])
    found = joined.document("join/1")
    assert (found["network"], found["state"], found["interface"]) == ("office", "handed-over", "")
    assert "early" in controller.clients("office")

    sm("join", invite["invite"], "--state-dir", tmp_path / "b").refused(CONFLICT, "used up", "ask for a new one")
    sm("join", f"@{file}", "--state-dir", tmp_path / "a").refused(
        CONFLICT, "in office already", "shadowmesh leave office"
    )
    sm("join", f"@{file}", "--state-dir", tmp_path / "b", "--name", "early").refused(CONFLICT, "choose another name")
    sm("join", f"@{file}", "--state-dir", tmp_path / "b", "--name", "No Name").refused(USAGE, "a-z, 0-9 and -")
    assert controller.states("office")[other["id"]] == "open", "none of these used it up"
    again = sm("register", "--controller", controller.url, "--invite", f"@{file}", "--state-dir", tmp_path / "b")
    assert again.code == 0 and again.out.startswith("office: joined as ") and ", 198.18.0." in again.out, again


def test_a_code_waits_for_approval(controller: Controller, sm: Command, tmp_path: Path) -> None:
    invite = controller.invite("office", "--client-name", "waiting")
    by_code = ("--controller", controller.url, "--fingerprint", controller.fingerprint, "--state-dir", tmp_path)
    found = sm("join", invite["code"], *by_code, "--json").document("join/1", code=7)
    assert found["state"] == "pending-approval"
    controller("client", "approve", "office", "waiting", "--json").document("client/1")


def test_an_empty_pool_is_a_conflict_that_says_its_size(controller: Controller, sm: Command, tmp_path: Path) -> None:
    controller.network("tiny", "198.18.1.0/30")
    invite = controller.invite("tiny", "--uses", "3")
    for name in ("one", "two"):
        assert sm("join", "-", "--name", name, "--state-dir", tmp_path / name, stdin=invite["invite"]).code == 0
    refused = sm("join", "-", "--state-dir", tmp_path / "three", "--json", stdin=invite["invite"])
    refused.refused(CONFLICT, "all 2 addresses of tiny (198.18.1.0/30)", "longest idle is one", "network set --subnet")
    found = controller("network", "invites", "tiny", "--json").document("invites/1")
    assert [i["uses_left"] for i in found["invites"] if not i["standing"]] == [1]
    assert sorted(controller.clients("tiny")) == ["one", "two"]
    controller("network", "set", "tiny", "--subnet", "198.18.1.0/29", "--json").document("network/1")
    assert sm("join", "-", "--state-dir", tmp_path / "three", stdin=invite["invite"]).code == 0, "it may be tried again"


def test_overlaps_are_refused_before_the_invite_is_used_up(controller: Controller, sm: Command, tmp_path: Path) -> None:
    assert sm("join", "-", "--state-dir", tmp_path, stdin=controller.invite("office")["invite"]).code == 0
    controller.network("clash", "198.18.0.0/16")
    invite = controller.invite("clash")
    for _ in range(2):
        refused = sm("join", "-", "--state-dir", tmp_path, stdin=invite["invite"])
        refused.refused(CONFLICT, "198.18.0.0/16 of clash overlaps 198.18.0.0/24 of network office", "another subnet")
    assert (controller.states("clash")[invite["id"]], controller.clients("clash")) == ("open", [])
    assert enrolments(tmp_path) == 0


# signing in


def test_signing_in(controller: Controller, sm: Command, tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    where = (controller.url, "--fingerprint", controller.fingerprint)
    sm("login", *where, "--token", "-", stdin="sk_wrong\n", env=env).refused(NOT_ALLOWED, "not valid")
    sm("login", *where, "--email", "admin@localhost", "--password", "-", stdin="x\n", env=env).refused(
        NOT_ALLOWED, "wrong"
    )
    sm("login", controller.url, "--token", "-", stdin="x\n", env=env).refused(UNREACHABLE, "--fingerprint")
    sm("login", controller.url, "--fingerprint", "sha256:" + "0" * 64, "--token", "x", env=env).refused(NOT_ALLOWED)
    assert not list(tmp_path.iterdir())
    key = str(controller.first["api_key"])
    assert sm("login", *where, "--token", "-", "--json", stdin=key, env=env).document("login/1")
    kept = list((tmp_path / "shadowmesh").iterdir())
    assert kept and not any(file.stat().st_mode & 0o077 for file in kept)
    assert sm("network", "show", "office", env=env).code == 0
    assert sm("logout", env=env).out == "signed out\n"
    sm("network", "list", env=env).refused(USAGE, "shadowmesh login")
    token = {"SHADOWMESH_CONTROLLER": controller.url, "SHADOWMESH_TOKEN": key}
    assert sm("network", "list", env=token | {"SHADOWMESH_FINGERPRINT": controller.fingerprint}).code == 0
    sm("network", "list", env=token | {"SHADOWMESH_FINGERPRINT": "sha256:" + "1" * 64}).refused(NOT_ALLOWED)


# what verbs print


def test_every_verb_of_management_gives_one_document(controller: Controller, sm: Command, tmp_path: Path) -> None:
    c = controller
    controller.network("docs", "198.18.2.0/24")
    assert c("network", "show", "docs", "--json").document("network/1")["subnet"] == "198.18.2.0/24"
    assert c("network", "set", "docs", "--description", "x", "--json").document("network/1")["description"] == "x"
    assert c("network", "rotate-key", "docs", "--json").document("network/1")
    invite = controller.invite("docs")
    assert set(invite) >= {"invite", "code", "id", "expires_at", "uses"}
    assert sm("join", "-", "--name", "a", "--state-dir", tmp_path, stdin=invite["invite"], env={}).code == 0
    assert c("client", "show", "docs", "a", "--json").document("client/1")["name"] == "a"
    assert c("client", "rename", "docs", "a", "b", "--json").document("client/1")["name"] == "b"
    assert c("client", "set", "docs", "b", "--ip", "198.18.2.77", "--json").document("client/1")["ip"] == "198.18.2.77"
    c("client", "remove", "docs", "b", "--yes", "--json").document("client-removed/1")
    user = c("user", "add", "o@example.org", "--json").document("user/1")
    assert user["password"]
    c("user", "list", "--json").document("users/1")
    c("user", "reset-password", "o@example.org", "--json").document("user/1")
    c("member", "add", "docs", "o@example.org", "--role", "member", "--json").document("member/1")
    c("member", "list", "docs", "--json").document("members/1")
    c("member", "remove", "docs", "o@example.org", "--json").document("member-removed/1")
    c("user", "disable", "o@example.org", "--json").document("user-disabled/1")
    key = c("api-key", "create", "--name", "k", "--expires", "1d", "--json").document("api-key/1")
    c("api-key", "list", "--json").document("api-keys/1")
    c("api-key", "revoke", key["id"], "--json").document("api-key-revoked/1")
    c("relay", "token", "--json").document("relay-token/1")
    c("relay", "list", "--json").document("relays/1")
    c("audit", "list", "--json").document("audit/1")
    c("network", "delete", "docs", "--yes", "--json").document("network-deleted/1")
    assert json.loads(c("controller", "secrets", "export").out)["schema"] == "shadowmesh.controller-secrets/1"


def test_an_invite_on_stdout_is_the_invite_alone(controller: Controller) -> None:
    made = controller("network", "invite", "office", "--uses", "2")
    assert made.out.startswith("smi1_") and made.out.count("\n") == 1, "so that a shell can take it"
    assert "to type by hand: office-" in made.err and "2 machines" in made.err
    assert f"--controller {controller.url} --fingerprint {controller.fingerprint}" in made.err
    quiet = controller("network", "invites", "office", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "secret"),
    [
        ("network invite office", "smi1_"),
        ("api-key create --name quiet", "sk_"),
        ("relay token", "smr1_"),
        ("user add quiet@example.org", "password, to be used once: "),
        ("user reset-password quiet@example.org", "password, to be used once: "),
    ],
)
def test_quiet_doesnt_lose_what_is_shown_once(controller: Controller, arguments: str, secret: str) -> None:
    made = controller(*arguments.split(), "--quiet")
    assert made.code == 0 and secret in made.out and made.err == ""


def test_removing_a_machine_warns_of_invites_that_would_let_it_in_again(
    controller: Controller, sm: Command, tmp_path: Path
) -> None:
    controller.network("doors", "198.18.60.0/24")
    for command in (("client", "remove", "doors", "thief"), ("device", "remove", "thief@doors")):
        invite = controller("network", "invite", "doors", "--uses", "2", "--json").document("invite/1")
        state = tmp_path / command[0]
        assert sm("join", invite["invite"], "--name", "thief", "--state-dir", state).code == 0
        remedy = f"shadowmesh network revoke-invite doors {invite['id']}"
        assert remedy in controller(*command, "--yes").err
        assert controller(*remedy.split()[1:]).code == 0
    assert sm("join", controller.invite("doors")["invite"], "--name", "used", "--state-dir", tmp_path / "u").code == 0
    assert "invite" not in controller("client", "remove", "doors", "used", "--yes").err
    controller("network", "delete", "doors", "--yes")


def test_tables_align_and_a_dash_stands_for_nothing(controller: Controller) -> None:
    lines = controller("network", "invites", "office").out.splitlines()
    column = lines[0].index("STATE")
    assert {line[column:].split()[0] for line in lines[1:]} <= {"open", "used", "expired", "revoked"}
    shown = controller("network", "show", "office").out
    assert "approval:        no\n" in shown and "subnet6:         -\n" in shown and "{" not in shown


def test_the_audit_log_says_what_was_changed_into_what(controller: Controller) -> None:
    assert controller("network", "create", "logged", "--subnet", "10.77.0.0/24").code == 0
    assert controller("network", "set", "logged", "--max-clients", "7").code == 0
    lines = controller("audit", "list").out.splitlines()
    assert any("network.set" in line and line.endswith("max_clients 100 -> 7") for line in lines), lines[-3:]
    verdict = controller("audit", "verify")
    assert verdict.code == 0 and "the chain holds" in verdict.out
