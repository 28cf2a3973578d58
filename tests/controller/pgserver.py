"""PostgreSQL servers of our own: real ones, without durability, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa


def empty(engine: sa.Engine) -> None:
    """Takes everything out of its database, the tables too."""
    with engine.begin() as conn:
        conn.exec_driver_sql("DROP SCHEMA public CASCADE")
        conn.exec_driver_sql("CREATE SCHEMA public")


class Server:
    """One cluster in its own directory, on a unix socket there and, with a port, on loopback."""

    def __init__(self, base: Path, *, port: int | None = None) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            pytest.skip("needs PostgreSQL's server programs (apt install postgresql)")
        self._binaries = found[-1].parent
        self.base, self.port = base, port
        self._data = base / "data"
        self._as_user: list[str] = []
        base.mkdir()
        if os.geteuid() == 0:  # PostgreSQL doesn't run as root
            shutil.chown(base, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [*self._as_user, self._binaries / program, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def init(self) -> None:
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "shadowmesh", "--no-sync", "-E", "UTF8")

    def follow(self, primary: Server) -> None:
        """As a standby of that one, which runs."""
        source = f"host={primary.base} port={primary.port or 5432} user=shadowmesh"
        self._run("pg_basebackup", "-D", self._data, "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def start(self) -> None:
        listen = "" if self.port is None else "127.0.0.1"
        options = f"-F -c listen_addresses='{listen}' -c unix_socket_directories={self.base} -c fsync=off"
        if self.port is not None:
            options += f" -c port={self.port}"
        self._run("pg_ctl", "-D", self._data, "-w", "-o", options, "-l", self.base / "log", "start")

    def promote(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "promote")

    def stop(self, how: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", how, "-w", "stop")

    def remove(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
