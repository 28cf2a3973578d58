"""`shadowmesh user …` and signing in, against a real controller on loopback."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt
import pytest
from clikit import environment, on_a_terminal
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from shadowmesh.cli import secondfactor
from shadowmesh.cli.base import visible

if TYPE_CHECKING:
    from clikit import Command, Controller

USAGE, NOT_ALLOWED, NOT_FOUND, CONFLICT = 2, 4, 5, 6
SECRET = "the old system's password"
HASH = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4)).decode()


def test_a_csv_file_is_imported_and_its_people_go_on_with_their_passwords(
    controller: Controller, sm: Command, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"email,name,password_hash,role\nann@old.example,Ann,{HASH},\nroot@old.example,Root,{HASH},admin\n")
    made = controller("user", "import", file, "--json").document("users-imported/1")["users"]
    assert [(u["email"], u["name"], u["admin"]) for u in made] == [
        ("ann@old.example", "Ann", False), ("root@old.example", "Root", True)
    ]  # fmt: skip
    ann = ("login", controller.url, "--fingerprint", controller.fingerprint, "--email", "ann@old.example")
    assert sm(*ann, "--password", "-", stdin=f"{SECRET}\n").code == 0
    new = sm(*ann, "--password", "-", "--generate", "--json", stdin=f"{SECRET}\n").document("login/1")["password"]
    assert sm(*ann, "--password", "-", stdin=f"{SECRET}\n").code == NOT_ALLOWED
    assert sm(*ann, "--password", "-", stdin=f"{new}\n").code == 0
    controller("user", "import", file).refused_lines(CONFLICT, "entry 1: there is a user ann@old.example", "entry 2")


def test_each_wrong_line_is_told_with_its_number_and_nothing_is_sent(controller: Controller, tmp_path: Path) -> None:
    before = controller("user", "list", "--json").document("users/1")["users"]
    csv, text = tmp_path / "x.csv", tmp_path / "x.json"
    csv.write_text(f"email,password_hash,role\nok@x,{HASH},\nnobody,{HASH},\nb@x,$1$md5,\nc@x,{HASH},king\nd@x,,\n")
    told = controller("user", "import", csv).refused_lines(
        USAGE,
        "line 3: email",
        "line 4: password_hash is no hash of",
        "line 5: role",
        "line 6: password_hash is missing",
    )
    assert "md5" not in told
    text.write_text(json.dumps([{"email": "ok@x", "password_hash": HASH}, {"email": "b@x", "shoe": 44}, 7]))
    controller("user", "import", text).refused_lines(
        USAGE, "entry 2: password_hash is missing", "entry 2: there is no field 'shoe'", "entry 3:"
    )
    for content, words in (
        ("[", "is no JSON"), ("{}", "is no list of users"), ("[]", "has 0 users"),
        (json.dumps([{"email": "b@x", "password_hash": "$2b$31$" + "x" * 53}]), "entry 1: password_hash has a cost"),
    ):  # fmt: skip
        text.write_text(content)
        controller("user", "import", text, "--json").refused(USAGE, words)
    controller("user", "import", tmp_path / "nothing.csv").refused(USAGE, "can't be read (No such file")
    assert controller("user", "list", "--json").document("users/1")["users"] == before


def test_a_service_account_signs_in_by_its_keys(controller: Controller, sm: Command) -> None:
    added = controller("user", "add", "robot@example.org", "--service", "--name", "Robot")
    assert added.out == (
        "robot@example.org: added; `shadowmesh api-key create --user robot@example.org` makes an API key for it\n"
    )
    key = controller("api-key", "create", "--user", "robot@example.org", "--json").document("api-key/1")
    assert key["user"] == "robot@example.org"
    where = {"SHADOWMESH_CONTROLLER": controller.url, "SHADOWMESH_FINGERPRINT": controller.fingerprint}
    assert sm("network", "list", env=where | {"SHADOWMESH_TOKEN": key["key"]}).code == 0
    controller("user", "reset-password", "robot@example.org").refused(CONFLICT, "api-key create --user")
    controller("api-key", "create", "--user", "admin@localhost").refused(CONFLICT, "is a person")


def test_a_key_is_made_for_less(controller: Controller) -> None:
    network = controller.network("keys", "198.18.60.0/24")
    made = controller(
        "api-key", "create", "--name", "few", "--scope", "network.view", "--scope", "logs.view", "--network", network,
        "--read-only", "--json",
    ).document("api-key/1")  # fmt: skip
    assert (made["scopes"], len(made["networks"]), made["read_only"]) == (["logs.view", "network.view"], 1, True)
    assert "logs.view, network.view in keys only to read" in controller("api-key", "list").out
    assert controller("api-key", "revoke", "FEW").out == f"{made['id']}: revoked\n"
    for _ in range(2):
        controller("api-key", "create", "--name", "twin")
    controller("api-key", "revoke", "twin").refused(USAGE, "2 API keys are called twin: key_", "use an id")
    controller("api-key", "revoke", "few").refused(NOT_FOUND, "api-key list")
    controller("user", "add", "idle@example.org", "--service")
    idle = ("api-key", "create", "--user", "idle@example.org", "--scope", "client.register", "--network", network)
    assert "idle@example.org may not do client.register in keys" in controller(*idle).err
    controller("member", "add", "keys", "idle@example.org")
    assert controller(*idle).err == ""
    controller("api-key", "create", "--scope", "network.own").refused(USAGE, "network.own", "there are network.create")
    controller("network", "delete", network, "--yes")


def test_where_one_is_signed_in_is_listed_and_ended(controller: Controller, sm: Command) -> None:
    made = controller("user", "add", "zoe@example.org", "--json").document("user/1")
    zoe = (
        "login",
        controller.url,
        "--fingerprint",
        controller.fingerprint,
        "--email",
        made["email"],
        "--password",
        "-",
    )
    done = sm(*zoe, "--generate", "--json", stdin=made["password"] + "\n").document("login/1")
    (here,) = sm("user", "sessions", "--json").document("sessions/1")["sessions"]
    assert here["current"] and here["client"].startswith("shadowmesh ") and here["source"] == "127.0.0.1"
    shown = controller("user", "sessions", "zoe@example.org").out.splitlines()[1]
    assert here["id"] in shown and not shown.startswith("*")
    assert sm("user", "sessions").out.splitlines()[1].startswith("*")
    controller("user", "end-session", here["id"], "--json").document("session-ended/1")
    sm("user", "sessions").refused(NOT_ALLOWED, "sign in")
    controller("user", "end-session", here["id"]).refused(NOT_FOUND, "`shadowmesh user sessions` names them")
    assert done["password"] and sm("logout").code == 0


def test_a_second_factor_by_a_script(controller: Controller, sm: Command) -> None:
    made = controller("user", "add", "tom@example.org", "--json").document("user/1")
    tom = (
        "login",
        controller.url,
        "--fingerprint",
        controller.fingerprint,
        "--email",
        made["email"],
        "--password",
        "-",
    )
    word = sm(*tom, "--generate", "--json", stdin=made["password"] + "\n").document("login/1")["password"]
    secret = sm("user", "mfa", "enrol", "--password", "-", "--json", stdin=word + "\n").document("mfa-secret/1")[
        "secret"
    ]
    totp = TOTP(base64.b32decode(secret), 6, SHA1(), 30)
    sm("user", "mfa", "confirm", "--code", "-", stdin="nonsense\n").refused(NOT_ALLOWED, "the code is wrong")
    code = totp.generate(int(time.time())).decode()
    codes = sm("user", "mfa", "confirm", "--code", "-", "--json", stdin=code + "\n").document("recovery-codes/1")
    sm(*tom, stdin=word + "\n").refused(NOT_ALLOWED, "asks for a code", "--code")
    assert sm(*tom, "--code", "-", stdin=f"{word}\n{codes['recovery_codes'][0]}\n").code == 0
    assert "9 recovery codes left" in sm("user", "mfa", "status").out
    controller("user", "mfa", "reset", "tom@example.org").refused(USAGE, "--yes")
    assert controller("user", "mfa", "reset", "tom@example.org", "--yes").code == 0
    assert sm("user", "mfa", "status").out == "no code is asked for\n" and sm("logout").code == 0


def test_a_secret_is_shown_as_a_qr_code_on_a_terminal_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "otpauth://totp/ShadowMesh:a%40b?secret=JBSWY3DPEHPK3PXP&issuer=ShadowMesh"
    for encoding, shown in (("utf-8", True), ("ascii", False)):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        drawn = secondfactor._qr(uri)
        assert ("█" in drawn) is shown and visible(drawn) == drawn


def test_a_second_factor_is_set_up_on_a_terminal(controller: Controller, sm: Command, tmp_path: Path) -> None:
    """The secret, its QR code and the recovery codes are shown; a mistyped code is asked for again; the password isn't shown."""
    first = controller("user", "add", "una@example.org", "--json").document("user/1")["password"]
    env = environment(tmp_path, PYTHONIOENCODING="utf-8")
    una = ("login", controller.url, "--fingerprint", controller.fingerprint, "--email", "una@example.org")
    new = ("--new-password", "-", "--password", "-")
    assert sm(*una, *new, stdin=f"{first}\na password of una\n", env=env).code == 0

    def shown(seen: str) -> bytes:
        (secret,) = re.findall(r"secret: ([A-Z2-7]+)", seen)
        return TOTP(base64.b32decode(secret), 6, SHA1(), 30).generate(int(time.time())) + b"\n"

    enrol = ("user", "mfa", "enrol")
    code, seen = on_a_terminal(*enrol, asked=((b"Password: ", b"a wrong password\n"),), **env)
    assert (code, "secret:" in seen) == (NOT_ALLOWED, False)
    asked = ((b"Password: ", b"a password of una\n"), (b"Code: ", b"nonsense\n"), (b"Code: ", shown))
    code, seen = on_a_terminal(*enrol, asked=asked, **env)
    assert code == 0 and "a password of una" not in seen and "Traceback" not in seen
    assert "█" in seen and "otpauth://totp/" in seen and "the code is wrong" in seen
    _, _, codes = seen.partition("recovery codes, each good once")
    assert len(codes.split("\r\n")[1:-1]) == 10
    assert "10 recovery codes left" in sm("user", "mfa", "status", env=env).out
    code, seen = on_a_terminal(*enrol, asked=((b"Password: ", b"a password of una\n"),), **env)
    assert code == CONFLICT and "secret:" not in seen, "the one that stands isn't overwritten"
    wrong = ((b"Password: ", b"a password of una\n"), (b"Code: ", b"nonsense\n"))
    code, seen = on_a_terminal(*una, asked=wrong, **env)
    assert (code, "signed in" in seen) == (NOT_ALLOWED, False)


def test_somebody_is_invited_and_accepts(controller: Controller, sm: Command) -> None:
    made = controller("user", "invite", "ivy@example.org", "--expires", "1d", "--json").document("user-invitation/1")
    accept = ("login", controller.url, "--fingerprint", controller.fingerprint, "--accept-invitation", "-")
    sm(*accept, stdin=made["token"] + "\n").refused(USAGE, "--new-password -, --new-password @FILE or --generate")
    sm(*accept, "--new-password", "-", stdin=made["token"] + "\npassword123\n").refused(USAGE, "tried first")
    done = sm(*accept, "--generate", "--json", stdin=made["token"] + "\n").document("login/1")
    assert done["name"] == "ivy@example.org" and len(done["password"]) == 16
    sm(*accept, "--generate", stdin=made["token"] + "\n").refused(NOT_ALLOWED, "ask an administrator")
    shown = controller("user", "invite", "joe@example.org").out.splitlines()
    assert shown[1].startswith("smu_") and shown[3].endswith(f"{controller.fingerprint} --accept-invitation -")
    (left,) = controller("user", "invitations", "--json").document("user-invitations/1")["invitations"]
    assert left["email"] == "joe@example.org" and left["id"] in controller("user", "invitations").out
    assert controller("user", "revoke-invitation", left["id"]).code == 0
    controller("user", "revoke-invitation", left["id"]).refused(NOT_FOUND, "`shadowmesh user invitations` names them")
    controller("user", "invite", "x@example.org", "--role", "king").refused(USAGE, "there is admin and user")
    controller("user", "invite", "x@example.org", "--network-role", "guest").refused(USAGE, "name both")
    assert sm("logout").code == 0


def test_a_new_password_is_given_or_made(sm: Command) -> None:
    where = ("login", "https://127.0.0.1:1", "--email", "a@b", "--password", "x")
    sm(*where, "--new-password", "y", "--generate").refused(USAGE, "both --new-password and --generate")


# signing in on a terminal, as the README has it


def test_login_asks_on_a_terminal_and_for_a_new_password_in_place_of_a_first_one(
    controller: Controller, sm: Command, tmp_path: Path
) -> None:
    first = controller("user", "add", "tess@example.org", "--json").document("user/1")["password"].encode() + b"\n"
    env = environment(tmp_path)
    where = ("login", controller.url, "--fingerprint", controller.fingerprint)
    code, seen = on_a_terminal(
        *where,
        asked=(
            (b"E-mail: ", b"tess@example.org\n"), (b"Password: ", first), (b"this password was for one use", b""),
            (b"New password: ", b"short\n"), (b"The same again: ", b"short\n"),
            (b"the new password has fewer than 10 characters", b""),
            (b"New password: ", b"a long and new one\n"), (b"The same again: ", b"a long and other one\n"),
            (b"these two differ", b""),
            (b"New password: ", b"a long and new one\n"), (b"The same again: ", b"a long and new one\n"),
        ),
        **env,
    )  # fmt: skip
    assert (code, "signed in to" in seen, "long and new" in seen) == (0, True, False)
    assert sm("network", "list", env=env).code == 0
    again = (*where, "--email", "tess@example.org", "--password", "-")
    assert sm(*again, stdin="a long and new one\n", env=env).code == 0


def test_whose_the_certificate_is_is_known_before_login_asks_for_anything(controller: Controller) -> None:
    code, seen = on_a_terminal("login", controller.url)
    assert code == 3 and "controller fingerprint" in seen and "E-mail" not in seen


def test_a_first_password_alone_names_the_options_that_there_are(controller: Controller, sm: Command) -> None:
    first = controller("user", "add", "uma@example.org", "--json").document("user/1")["password"]
    where = ("login", controller.url, "--fingerprint", controller.fingerprint, "--email", "uma@example.org")
    sm(*where, "--password", "-", stdin=first).refused(NOT_ALLOWED, "for one use; give a new one with --new-password")
    sm(*where, "--password", "-", "--new-password", "short", stdin=first).refused(
        USAGE, "the new password has fewer than 10 characters"
    )


def test_the_fingerprint_is_shown_on_the_controllers_host(controller: Controller, sm: Command, tmp_path: Path) -> None:
    assert controller("controller", "fingerprint").out == f"{controller.fingerprint}\n"
    shown = controller("controller", "fingerprint", "--json").document("controller-fingerprint/1")
    assert shown["public_urls"] == [controller.url]
    sm("controller", "fingerprint", "--data-dir", tmp_path).refused(5, "there is no controller in", "controller init")


def test_a_user_is_deleted_and_what_they_own_goes_to_somebody_or_is_named(controller: Controller, sm: Command) -> None:
    for name in ("gone@example.org", "heir@example.org"):
        controller("user", "add", name)
    controller("network", "create", "of-gone", "--subnet", "10.71.0.0/24")
    controller("member", "add", "of-gone", "gone@example.org", "--role", "owner")
    controller("user", "delete", "gone@example.org").refused(USAGE, "--yes")
    delete = ("user", "delete", "gone@example.org", "--yes")
    controller(*delete).refused(CONFLICT, "owns of-gone", "--give-to")
    controller(*delete, "--give-to", "nobody@example.org").refused(NOT_FOUND, "nobody@example.org")
    done = controller(*delete, "--give-to", "heir@example.org", "--json").document("user-deleted/1")
    assert (done["given_to"], done["networks"], done["clients"]) == ("heir@example.org", ["of-gone"], 0)
    members = controller("member", "list", "of-gone", "--json").document("members/1")["members"]
    assert [(m["email"], m["role"]) for m in members] == [("heir@example.org", "owner")]
    controller(*delete).refused(NOT_FOUND, "user list")
    last = str(controller.first["admin_email"])
    if len([u for u in controller("user", "list", "--json").document("users/1")["users"] if u["admin"]]) == 1:
        controller("user", "delete", last, "--yes").refused(CONFLICT, "last administrator")
