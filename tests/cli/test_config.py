"""`config check`, `show` and `example`; `--config` and `--set` of the roles."""

from __future__ import annotations

from pathlib import Path

import pytest
from clikit import Command, Controller

BAD = "controller:\n  listen_adress: 1\n  mode: locl\n"


@pytest.mark.parametrize("role", ["controller", "client", "relay"])
def test_an_example_passes_the_check(sm: Command, tmp_path: Path, role: str) -> None:
    text = sm("config", "example", role)
    assert text.code == 0
    (tmp_path / "x.yaml").write_text(text.out)
    told = sm("config", "check", tmp_path / "x.yaml", "--json").document("config-check/1")
    assert (told["role"], told["warnings"]) == (role, [])
    document = sm("config", "example", role, "--json").document("config-example/1")
    assert document["text"] == text.out and document["file"] == f"{role}-config.yaml"


def test_all_mistakes_are_told_each_with_its_line(sm: Command, tmp_path: Path) -> None:
    path = tmp_path / "controller-config.yaml"
    path.write_text(BAD)
    told = sm("config", "check", path)
    told.refused_lines(
        2, f"{path}:2: there is no key 'controller.listen_adress'; did you mean", f"{path}:3: controller.mode"
    )
    assert len(sm("config", "check", path, "--json").err.splitlines()) == 1


def test_what_isnt_there_is_refused(sm: Command, tmp_path: Path) -> None:
    sm("config", "check", tmp_path / "none.yaml").refused(2, "there is no", "config example")
    sm("config", "example", "server").refused(2, "'server'", "controller, client, relay")
    sm("controller", "run", "--config", tmp_path / "none.yaml").refused(2, "there is no")


def test_show_says_where_each_value_is_from_and_no_secret(sm: Command, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("database: {host: db1, password: hunter2hunter2}\nnetworks: {max_per_user: 3}\n")
    path.chmod(0o600)
    env = {"SHADOWMESH_LOGGING_LEVEL": "error"}
    call = ("config", "show", "controller", "--config", path, "--data-dir", tmp_path, "--set", "controller.mode=cloud")
    rows = sm(*call, "--json", env=env).document("config-show/1")["settings"]
    assert rows["database.password"] == {"value": "***", "from": f"{path}:1", "kind": "file"}
    assert rows["networks.max_per_user"] == {"value": 3, "from": f"{path}:2", "kind": "file"}
    assert rows["logging.level"] == {"value": "error", "from": "SHADOWMESH_LOGGING_LEVEL", "kind": "environment"}
    assert rows["controller.mode"]["from"] == "--set controller.mode"
    assert rows["authentication.session_timeout"] == {"value": "30d", "from": "default", "kind": "default"}
    text = sm(*call, env=env)
    assert "hunter2" not in text.out + text.err and "SHADOWMESH_LOGGING_LEVEL" in text.out


def test_a_certificate_of_an_api_key_is_made_beside_its_private_key(controller: Controller, tmp_path: Path) -> None:
    key = controller("api-key", "create", "--name", "m", "--scope", "client.register", "--json").document("api-key/1")
    told = controller("api-key", "certificate", key["id"], "--out", tmp_path, "--json").document(
        "api-key-certificate/1"
    )
    assert (told["certificate"], told["key"]) == (str(tmp_path / "client.crt"), str(tmp_path / "client.key"))
    assert (tmp_path / "client.key").stat().st_mode & 0o777 == 0o600
    assert "BEGIN CERTIFICATE" in (tmp_path / "client.crt").read_text()
    controller("api-key", "certificate", key["id"], "--out", tmp_path).refused(2, "replace", "--yes")
    controller("api-key", "certificate", "key_none", "--out", tmp_path, "--yes").refused(5, "key_none")
    controller("api-key", "certificate", key["id"], "--out", tmp_path / "client.crt").refused(2, "not a directory")
    controller("api-key", "certificate", "key_none", "--out", tmp_path / "new").refused(5, "key_none")
    assert not (tmp_path / "new").exists()
    assert controller("api-key", "certificate", key["id"], "--out", tmp_path / "new" / "er").code == 0
    assert (tmp_path / "new" / "er").stat().st_mode & 0o777 == 0o700


def test_a_controller_is_made_from_its_file(sm: Command, tmp_path: Path) -> None:
    """Arguments stand over it, and what the file gives isn't asked for."""
    file = tmp_path / "controller.yaml"
    file.write_text(
        f"controller:\n  data_dir: {tmp_path}/c\n  public_urls: ['https://one:8443']\n  listen_address: 127.0.0.1:9443\n"
        "  admin_email: ops@example.org\n"
    )
    made = sm("controller", "init", "--config", file, "--json").document("controller-init/1")
    assert (made["admin_email"], made["public_urls"]) == ("ops@example.org", ["https://one:8443"])
    assert made["admin_password"] and (tmp_path / "c" / "controller.json").exists()
    shown = sm("config", "show", "controller", "--data-dir", tmp_path / "c", "--json").document("config-show/1")
    assert shown["settings"]["controller.listen_address"]["value"] == "127.0.0.1:9443"
    file.chmod(0o600)
    file.write_text(file.read_text() + "  admin_password: first-of-all-words\n")
    over = ("--data-dir", tmp_path / "d", "--public-url", "https://two:8443")
    text = sm("controller", "init", "--config", file, *over).out
    assert "as given, until the first sign-in" in text and "first-of-all-words" not in text
    assert f"next: shadowmesh controller run --data-dir {tmp_path}/d --config {file}" in text
    shown = sm("config", "show", "controller", "--data-dir", tmp_path / "d", "--json").document("config-show/1")
    assert shown["settings"]["controller.public_urls"]["value"] == ["https://two:8443"]


def test_a_secret_is_no_argument(sm: Command, tmp_path: Path) -> None:
    sm("config", "show", "controller", "--set", "database.password=x").refused(2, "seen by others", "@FILE")
    sm("config", "show", "controller", "--set", "networks.max_per_usr=3").refused(
        2, "did you mean networks.max_per_user"
    )
    sm("config", "show", "controller", "--set", "networks.max_per_user").refused(2, "no value")
    (tmp_path / "pw").write_text("s")
    told = sm("config", "show", "controller", "--set", f"database.password=@{tmp_path / 'pw'}", "--json")
    assert told.document("config-show/1")["settings"]["database.password"]["value"] == "***"


@pytest.mark.parametrize("verb", [("relay", "run"), ("daemon", "run"), ("controller", "run")])
def test_the_roles_refuse_a_file_with_mistakes(sm: Command, tmp_path: Path, verb: tuple[str, str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "logging: {level: loud}\nrelay: {public_url: 'ws://x:1'}\n"
        if verb[0] == "relay"
        else "logging: {level: loud}\n"
    )
    sm(*verb, "--config", path).refused(2, f"{path}:1", "logging.level", "'loud' is none of debug")


def test_a_mail_server_that_is_none_is_said_without_what_it_holds(sm: Command, tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path / "c"))
    assert sm("controller", "init", *where, "--public-url", "https://127.0.0.1:18443").code == 0
    told = ("--set", "controller.mode=cloud", "--set", "sign_up.sender=a@example.org")
    refused = sm("controller", "run", *where, *told, env={"SHADOWMESH_SIGN_UP_SMTP_URL": "ftp://ann:hush@mail"})
    assert "hush" not in refused.refused(2, "sign_up.smtp_url isn't usable", "smtps://USER:PASSWORD@HOST")
