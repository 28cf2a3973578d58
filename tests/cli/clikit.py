"""What the tests of the command line share: the program within this process, and as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog

from shadowmesh import __main__

TIMEOUT = 60.0
Command = Callable[..., "Result"]


@dataclass(frozen=True)
class Result:
    """How a call ended."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> str:
        """One line on stderr that says what and what to do (after a log, if there is one); nothing on stdout.

        With --json it is a document. Returns `what; remedy`.
        """
        told = f"{self.arguments} gave {self.code}\n{self.out}\n{self.err}"
        *before, last = self.err.splitlines() or [""]
        assert self.code == code, told
        assert "Traceback" not in self.err and self.out == "", told
        assert all(line.startswith(("{", "waiting for ", "joining; ")) for line in before), (
            told
        )  # a long-running role's log
        if "--json" in self.arguments:
            document = json.loads(last)
            assert (document["schema"], document["exit"]) == ("shadowmesh.error/1", code) and document["code"], told
            what, remedy = document["what"], document["remedy"]
        else:
            assert last.startswith("error: "), told
            what, _, remedy = last.removeprefix("error: ").partition("; ")
        assert what and remedy, told
        line = f"{what}; {remedy}"
        assert "Error:" not in line and "[Errno" not in line, told  # no exception shows through
        for word in words:
            assert word in line, told
        return line

    def refused_lines(self, code: int, *lines: str) -> str:
        """As `refused`, after a line for each thing that is wrong, which begin with `lines`."""
        *before, last = self.err.splitlines()
        told = f"{self.arguments} gave {self.code}\n{self.out}\n{self.err}"
        assert len(before) == len(lines) and all(map(str.startswith, before, lines)), told
        replace(self, err=last).refused(code)
        return self.err

    def document(self, schema: str, code: int = 0) -> dict[str, Any]:
        """The one JSON document on stdout."""
        told = f"{self.arguments} gave {self.code}\n{self.out}\n{self.err}"
        assert self.code == code, told
        found = json.loads(self.out)
        assert found["schema"] == f"shadowmesh.{schema}", told
        assert isinstance(found, dict)
        return found


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHADOWMESH", "XDG_")) and k != "NO_COLOR"}
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")} | more


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "shadowmesh", *map(str, arguments)]


def in_process(home: Path, *arguments: object, stdin: str = "", env: dict[str, str] | None = None) -> Result:
    """`main` of the program within this process, in an environment, a directory and with streams as a process would have."""
    out, err, words = io.StringIO(), io.StringIO(), ("shadowmesh", *map(str, arguments))
    with (
        mock.patch.dict(os.environ, environment(home, **(env or {})), clear=True),
        mock.patch.multiple(sys, argv=list(words), stdin=io.StringIO(stdin)),
        mock.patch.object(__main__, "gc"),  # this process goes on
        contextlib.chdir(home),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        try:
            __main__.main()
        finally:
            structlog.reset_defaults()  # a log that a verb set up goes to its own stderr
    return Result(words[1:], int(end.value.code or 0), out.getvalue(), err.getvalue())


def as_process(
    home: Path, *arguments: object, stdin: str = "", prefix: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Result:
    """`python -m shadowmesh …` to its end; `prefix`: a command that starts it elsewhere."""
    done = subprocess.run(
        [*prefix, *program(*arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(home, **(env or {})),
        cwd=home,
    )
    return Result(tuple(map(str, arguments)), done.returncode, done.stdout, done.stderr)


def on_a_terminal(
    *arguments: str,
    typed: bytes = b"",
    asked: tuple[tuple[bytes, bytes | Callable[[str], bytes]], ...] = (),
    **env: str,
) -> tuple[int, str]:
    """Exit code and all that a person sees, who answers each question of `asked` in turn, by what they have seen where that
    is a function; `typed`: the answer to [y/N]."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(env)
        os.execv(sys.executable, [sys.executable, "-m", "shadowmesh", *arguments])
    seen, read = b"", 0
    for question, answer in asked or (((b"[y/N] ", typed),) if typed else ()):
        while question not in seen[read:]:
            chunk = os.read(terminal, 4096)
            assert chunk, seen
            seen += chunk
        read = seen.index(question, read) + len(question)
        os.write(terminal, answer(seen.decode(errors="replace")) if callable(answer) else answer)
    try:
        while chunk := os.read(terminal, 4096):
            seen += chunk
    except OSError:  # EIO: the other side has gone
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


@dataclass
class Running:
    """A long-running role; its log is read as it comes."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("")  # its end
            self._news.notify_all()

    def until(self, text: str) -> None:
        """Waits for a line of the log."""
        with self._news:
            reached = self._news.wait_for(lambda: any(text in n or not n for n in self.lines), TIMEOUT)
        assert reached and any(text in n for n in self.lines), "".join(self.lines)

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(home: Path, *arguments: object, prefix: tuple[str, ...] = ()) -> Running:
    process = subprocess.Popen(
        [*prefix, *program(*arguments)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, text=True, env=environment(home), cwd=home,
    )  # fmt: skip
    return Running(process)


@dataclass
class Controller:
    """A controller that runs, and its verbs."""

    data_dir: Path
    url: str
    first: dict[str, Any]
    sm: Command

    @property
    def fingerprint(self) -> str:
        return str(self.first["fingerprint"])

    def __call__(self, *arguments: object, **options: Any) -> Result:
        return self.sm(*arguments, "--data-dir", self.data_dir, **options)

    def network(self, name: str, subnet: str, *more: str) -> str:
        self("network", "create", name, "--subnet", subnet, *more, "--json").document("network/1")
        return name

    def invite(self, network: str, *more: str) -> dict[str, Any]:
        return self("network", "invite", network, *more, "--json").document("invite/1")

    def states(self, network: str) -> dict[str, str]:
        """Invite id → its state."""
        found = self("network", "invites", network, "--json").document("invites/1")
        return {i["id"]: i["state"] for i in found["invites"] if not i["standing"]}

    def clients(self, network: str) -> list[str]:
        found = self("client", "list", network, "--json").document("clients/1")
        return [c["name"] for c in found["clients"]]
