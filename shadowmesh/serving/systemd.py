"""The units by which systemd runs the roles: `daemon install`, `controller install`, `relay install`.

The daemon runs as root, for it makes interfaces and routes. Controller and relay have a user of their own, to whom their
directory belongs, and who may write nothing else.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shadowmesh.model.errors import Kind, ShadowMeshError

UNIT_DIR = Path("/etc/systemd/system")
_SYSTEMD = Path("/run/systemd/system")  # there if systemd runs this machine: sd_booted(3)


@dataclass(frozen=True, slots=True)
class Unit:
    """`command`: what is run, absolute. `service`: the lines of the unit's [Service] that it has beside that."""

    name: str
    description: str
    command: tuple[str, ...]
    service: tuple[str, ...]

    @property
    def text(self) -> str:
        lines = "\n".join(self.service)
        return f"""[Unit]
Description={self.description}
After=network.target

[Service]
{lines}
ExecStart={" ".join(map(_quoted, self.command))}
Restart=on-failure
RestartSec=2
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def daemon_unit(program: tuple[str, ...], state_dir: Path | None, config: Path | None = None) -> Unit:
    """`program`: how `shadowmesh` is started here, absolute. Without a directory, the one of `config`."""
    where = () if state_dir is None else ("--state-dir", str(state_dir.absolute()))
    command = (*program, "daemon", "run", *where, *_configured(config))
    return Unit("shadowmesh.service", "ShadowMesh client daemon", command, ("Type=notify", "WatchdogSec=30"))


def controller_unit(program: tuple[str, ...], data_dir: Path, user: str, config: Path | None = None) -> Unit:
    command = (*program, "controller", "run", "--data-dir", str(data_dir.absolute()), *_configured(config))
    return Unit("shadowmesh-controller.service", "ShadowMesh controller", command, _confined(user, data_dir))


def relay_unit(program: tuple[str, ...], data_dir: Path, user: str, options: tuple[str, ...]) -> Unit:
    """`options`: those of `relay run` besides the directory."""
    command = (*program, "relay", "run", "--data-dir", str(data_dir.absolute()), *options)
    return Unit("shadowmesh-relay.service", "ShadowMesh relay", command, _confined(user, data_dir))


def _configured(config: Path | None) -> tuple[str, ...]:
    return () if config is None else ("--config", str(config.absolute()))


def _confined(user: str, directory: Path) -> tuple[str, ...]:
    """What a role needs that only listens: its directory, and ports below 1024 if it is told so."""
    return (
        "Type=exec",
        f"User={user}",
        "UMask=0077",
        f"ReadWritePaths={_quoted(str(directory.absolute()))}",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "NoNewPrivileges=yes",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "RestrictNamespaces=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    )


def install(unit: Unit, unit_dir: Path | None) -> tuple[Path, bool]:
    """Writes the unit, and starts it unless a directory is given (of an image). Returns its path, and whether systemd runs
    here and was told.

    Raises ShadowMeshError: unit_unwritable, systemctl_failed.
    """
    path = (unit_dir or UNIT_DIR) / unit.name
    try:
        fresh = path.with_suffix(".new")
        fresh.write_text(unit.text, encoding="utf-8")
        fresh.replace(path)
    except OSError as e:
        raise ShadowMeshError(
            "unit_unwritable",
            f"{path} can't be written ({e.strerror})",
            "run it as root, or see the unit with --print and put it where it belongs",
            kind=Kind.NOT_ALLOWED if isinstance(e, PermissionError) else Kind.FAILED,
        ) from e
    if unit_dir is not None or not _SYSTEMD.exists():
        return path, False
    for arguments in (["daemon-reload"], ["enable", "--now", unit.name]):
        _run("systemctl", *arguments, remedy=f"see `systemctl status {unit.name}`")
    return path, True


def make_user(user: str, program: tuple[str, ...]) -> None:
    """Makes the user of a service if it isn't there. `program`: what the user will run.

    Raises ShadowMeshError: not_root, program_closed, useradd_missing, useradd_failed.
    """
    if os.geteuid() != 0:
        raise ShadowMeshError(
            "not_root", "only root can install a service", "run it as root, or see the unit with --print",
            kind=Kind.NOT_ALLOWED,
        )  # fmt: skip
    closed = _closed_to_others(Path(program[0]))
    if closed is not None and user != "root":
        raise ShadowMeshError(
            "program_closed",
            f"the user {user} can't run {program[0]}: {closed} is closed to others",
            "install ShadowMesh below /opt, as the README does, or say --user root",
            kind=Kind.CONFLICT,
        )
    try:
        pwd.getpwnam(user)
    except KeyError:
        options = ("--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent")
        _run("useradd", *options, "--shell", "/usr/sbin/nologin", user, remedy="make the user, and try again")


def give(directory: Path, user: str) -> None:
    """The directory with all in it is the user's. Raises ShadowMeshError(cannot_write)."""
    account = pwd.getpwnam(user)
    try:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    except OSError as e:
        raise ShadowMeshError(
            "cannot_write", f"{directory} can't be given to {user} ({e.strerror})", "see whose it is"
        ) from e


def check_readable(user: str, files: Iterable[Path]) -> None:
    """Raises ShadowMeshError(file_closed) for the first that the user can't read, of those that are there."""
    account = pwd.getpwnam(user)
    for path in files:
        asked = ["test", "-r", str(path)]
        done = subprocess.run(asked, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", check=False)
        if done.returncode:
            raise ShadowMeshError(
                "file_closed",
                f"the user {user} can't read {path}",
                f"`chgrp {user} {path}` and `chmod 640` it, in a directory that others may pass",
                kind=Kind.CONFLICT,
            )


def _closed_to_others(program: Path) -> Path | None:
    """The first directory on the way to a program, through its links, which others can't pass."""
    links = [program.absolute()]
    while links[-1].is_symlink():
        links.append(links[-1].parent / links[-1].readlink())
    parents = [parent for link in links for parent in reversed(link.parents)]
    return next((p for p in parents if not p.stat().st_mode & stat.S_IXOTH), None)


def _run(program: str, *arguments: str, remedy: str) -> None:
    """Raises ShadowMeshError with the program's own first line."""
    if shutil.which(program) is None:
        raise ShadowMeshError(f"{program}_missing", f"there is no `{program}` here", remedy)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()
        raise ShadowMeshError(
            f"{program}_failed",
            f"`{program} {' '.join(arguments)}` failed ({why[0] if why else done.returncode})",
            remedy,
        )


def _quoted(argument: str) -> str:
    """As systemd.service(5) reads a command line."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(c in argument for c in " \t'\"\\;") else escaped
