"""`daemon install`: the systemd unit that starts the daemon with the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from shadowmesh.model.errors import Kind, ShadowMeshError

UNIT_DIR = Path("/etc/systemd/system")
NAME = "shadowmesh.service"
_SYSTEMD = Path("/run/systemd/system")  # there if systemd runs this machine: sd_booted(3)


def unit_text(program: tuple[str, ...], state_dir: Path) -> str:
    """The unit file. `program`: how `shadowmesh` is started here, absolute."""
    command = (*program, "daemon", "run", "--state-dir", str(state_dir.absolute()))
    return f"""[Unit]
Description=ShadowMesh client daemon
After=network.target

[Service]
Type=notify
WatchdogSec=30
ExecStart={" ".join(map(_quoted, command))}
Restart=on-failure
RestartSec=2
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def install(text: str, unit_dir: Path) -> tuple[Path, bool]:
    """Writes the unit and starts it. Returns its path, and whether systemd runs here and was told.

    Raises ShadowMeshError: unit_unwritable, systemctl_failed.
    """
    path = unit_dir / NAME
    try:
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as e:
        raise ShadowMeshError(
            "unit_unwritable",
            f"{path} can't be written ({e.strerror})",
            "run it as root, or see the unit with --print and put it where it belongs",
            kind=Kind.NOT_ALLOWED if isinstance(e, PermissionError) else Kind.FAILED,
        ) from e
    if not _SYSTEMD.exists() or unit_dir != UNIT_DIR:
        return path, False
    for arguments in (["daemon-reload"], ["enable", "--now", NAME]):
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().splitlines()
            raise ShadowMeshError(
                "systemctl_failed",
                f"`systemctl {' '.join(arguments)}` failed ({why[0] if why else done.returncode})",
                f"see `systemctl status {NAME}`",
            )
    return path, True


def _quoted(argument: str) -> str:
    """As systemd.service(5) reads a command line."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(c in argument for c in " \t'\"\\;") else escaped
