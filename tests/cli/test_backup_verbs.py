"""`controller backup`, `restore`, `migrate` and `upgrade`, as they are typed; what is wrong is one line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nacl.pwhash import argon2id

if TYPE_CHECKING:
    from clikit import Command, Controller

FAILED, USAGE, NOT_ALLOWED, NOT_FOUND, CONFLICT = 1, 2, 4, 5, 6


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argon2id, "OPSLIMIT_MODERATE", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", argon2id.MEMLIMIT_MIN)


@pytest.fixture
def backup(controller: Controller, sm: Command, tmp_path: Path) -> Path:
    """Of the controller that runs."""
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    sm(
        "controller", "backup", tmp_path / "b", "--passphrase", f"@{tmp_path}/passphrase", "--data-dir", controller.data_dir, "--json",
    ).document("controller-backup/1")  # fmt: skip
    return tmp_path / "b"


def test_there_and_back(controller: Controller, backup: Path, sm: Command, tmp_path: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    by = ("--data-dir", tmp_path / "new", "--passphrase", "-")
    tried = sm("controller", "restore", backup, *by, "--dry-run", stdin="correct horse battery\n")
    assert tried.code == 0 and "nothing was changed" in tried.out and "whole" in tried.out
    assert not (tmp_path / "new").exists()
    done = sm("controller", "restore", backup, *by, "--json", stdin="correct horse battery\n")
    found = done.document("controller-restore/1")
    assert found["restored"]["generation"] > 1 and found["audit_broken_at"] is None and found["kept"] is None
    shown = sm("controller", "fingerprint", "--data-dir", tmp_path / "new").out.strip()
    assert (
        shown == found["fingerprint"] == sm("controller", "fingerprint", "--data-dir", controller.data_dir).out.strip()
    )
    sm("controller", "restore", backup, *by, stdin="correct horse battery\n").refused(CONFLICT, "--replace")
    over = sm("controller", "restore", backup, *by, "--replace", stdin="correct horse battery\n")
    assert over.code == 0 and "before-restore-" in over.out
    checked = sm("controller", "upgrade", "--check", "--data-dir", tmp_path / "new", "--json")
    assert checked.document("controller-upgrade/1")["steps"] == []
    moved = sm("controller", "migrate", "--to", f"sqlite:///{tmp_path}/other.db", "--data-dir", tmp_path / "new")
    assert moved.code == 0 and "all there" in moved.out
    (settings,) = (json.loads((tmp_path / "new" / "controller.json").read_text()),)
    assert settings["database_url"] == f"sqlite:///{tmp_path}/other.db"


def test_what_lies_elsewhere_is_named(sm: Command, tmp_path: Path) -> None:
    config, own = tmp_path / "c.yaml", tmp_path / "own.pem"
    sm("controller", "init", "--data-dir", tmp_path / "a", "--public-url", "https://127.0.0.1:9443")
    own.write_bytes((tmp_path / "a" / "server.pem").read_bytes())
    where = ("--data-dir", tmp_path / "b", "--public-url", "https://127.0.0.1:9443")
    assert sm("controller", "init", *where, "--tls-cert", own, "--tls-key", own).code == 0
    config.write_text("logging: {retention_days: 30}\n")
    by = ("--data-dir", tmp_path / "b", "--config", config, "--passphrase", "-")
    taken = sm("controller", "backup", tmp_path / "kept", *by, stdin="correct horse battery\n")
    assert taken.code == 0 and f"not in it, as it lies elsewhere: {config}, {own}" in taken.err
    again = sm("controller", "backup", tmp_path / "kept2", *by, "--json", stdin="correct horse battery\n")
    assert again.document("controller-backup/1")["not_in_it"] == [str(config), str(own), str(own)]


def test_a_recipient_encrypts_and_its_identity_opens(controller: Controller, sm: Command, tmp_path: Path) -> None:
    made = sm("controller", "backup-key", "--out", tmp_path / "identity")
    recipient = made.out.strip()
    assert recipient.startswith("smbr1_") and stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600
    at = ("--data-dir", controller.data_dir)
    assert sm("controller", "backup", tmp_path / "b", "--recipient", recipient, *at).code == 0
    by = ("--data-dir", tmp_path / "new", "--dry-run")
    assert sm("controller", "restore", tmp_path / "b", "--identity", f"@{tmp_path}/identity", *by).code == 0
    other = sm("controller", "backup-key", "--json").document("controller-backup-key/1")
    sm("controller", "restore", tmp_path / "b", "--identity", other["identity"], *by).refused(NOT_ALLOWED, "identity")
    sm("controller", "restore", tmp_path / "b", *by).refused(USAGE, "--identity")
    sm("controller", "backup", tmp_path / "c", "--recipient", other["identity"], *at).refused(USAGE, "a secret")
    sm("controller", "backup-key", "--out", tmp_path / "identity").refused(CONFLICT, "another name")


def test_what_is_wrong_is_said_in_one_line(controller: Controller, backup: Path, sm: Command, tmp_path: Path) -> None:
    at, new = ("--data-dir", controller.data_dir), ("--data-dir", tmp_path / "new")
    sm("controller", "backup", backup, "--passphrase", "-", *at, stdin="correct horse\n").refused(
        CONFLICT, "--overwrite"
    )
    sm("controller", "backup", tmp_path / "c", *at).refused(USAGE, "--passphrase @FILE")
    sm("controller", "backup", tmp_path / "c", "--passphrase", "-", *at, stdin="short\n").refused(USAGE, "longer")
    sm("controller", "backup", tmp_path / "no" / "c", "--passphrase", "-", *at, stdin="correct horse\n").refused(
        FAILED, "written"
    )
    sm("controller", "backup", tmp_path / "c", "--passphrase", "-", *new, stdin="correct horse\n").refused(NOT_FOUND)

    def restore(file: Path, passphrase: str = "correct horse battery") -> object:
        return sm("controller", "restore", file, "--passphrase", "-", *new, stdin=f"{passphrase}\n")

    restore(backup, "wrong horse").refused(NOT_ALLOWED, "passphrase")  # type: ignore[attr-defined]
    restore(tmp_path / "none").refused(NOT_FOUND, "can't be read")  # type: ignore[attr-defined]
    whole = backup.read_bytes()
    for content, word in (
        (whole[:-30], "cut short"),
        (whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:], "damaged"),
        (b"a letter", "no backup"),
    ):
        (tmp_path / "wrong").write_bytes(content)
        restore(tmp_path / "wrong").refused(FAILED, word)  # type: ignore[attr-defined]
    sm("controller", "restore", backup, "--passphrase", "-", "--replace", *at, stdin="correct horse battery\n").refused(
        CONFLICT, "stop that one first"
    )
    sm("controller", "migrate", "--to", "sqlite", *at).refused(CONFLICT, "stop that one first")
    sm("controller", "migrate", "--to", "mysql://x", *new).refused(NOT_FOUND)
