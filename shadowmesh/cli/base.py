"""What all verbs share: common options, output for people and for scripts, errors, secrets in arguments."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from shadowmesh.cli.pages import GENERAL, HELP_NAMES, Noun, Verb
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.places import DEFAULT_STATE_DIR
from shadowmesh.model.text import escaped, json_text

_GAP = 2  # spaces between columns
_SENTENCE = 24  # characters: what is shorter isn't broken
WAITING_FOR_APPROVAL = Kind.WAITING.value
RELAYED = 10
NO_PATH = 20


@dataclass(frozen=True, slots=True)
class Call:
    """The common options of one call, and how it speaks."""

    json: bool = False
    quiet: bool = False
    color: bool = True
    yes: bool = False
    debug: bool = False
    state_dir: Path = DEFAULT_STATE_DIR
    data_dir: Path | None = None

    def done(self, schema: str, value: Any, human: str | Callable[[], str] = "", *, shown_once: bool = False) -> None:
        """Prints the one result: a JSON document with its schema, or the text for people.

        `shown_once`: it holds a secret that can't be had again, so that --quiet doesn't lose it.
        """
        if shown_once:
            warn_of_readers()
        if self.json:
            plain = to_builtins(value)
            document = {"schema": f"shadowmesh.{schema}"} | (plain if isinstance(plain, dict) else {"items": plain})
            print(json_text(document), flush=True)
        elif shown_once or not self.quiet:
            text = human() if callable(human) else human
            if text:
                print(visible(text), flush=True)

    def line(self, value: Any, human: str) -> None:
        """One of many results: a JSON line, or a line for people."""
        if self.json:
            print(json_text(to_builtins(value)), flush=True)
        elif not self.quiet:
            print(visible(human), flush=True)

    @property
    def on_terminal(self) -> bool:
        """Whether people look at what is said."""
        return not (self.json or self.quiet) and sys.stdout.isatty()

    def screenful(self, value: Any, human: str) -> None:
        """As `line`, but on a terminal it takes the place of what is on the screen, without a flicker; what has no room
        is left out, and its lines are counted."""
        if not self.on_terminal:
            self.line(value, human)
            return
        lines, room = visible(human).splitlines(), max(1, shutil.get_terminal_size().lines - 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} lines more"]
        # home, without wrapping; each line to its end, and what is below, erased
        print("\x1b[H\x1b[?7l" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J\x1b[?7h", end="", flush=True)

    def note(self, text: str) -> None:
        """Progress and hints: on stderr, only for people."""
        if not (self.quiet or self.json):
            print(visible(text), file=sys.stderr, flush=True)

    @contextmanager
    def waiting(self, text: str, *, after: float = 1.0) -> Iterator[None]:
        """Notes `text` if what is done inside takes longer than `after` seconds: nobody waits without a word."""
        timer = threading.Timer(after, self.note, (text,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def confirm(self, question: str, *, reversible: bool = False) -> None:
        """Goes on after --yes or a typed y; fails with code 2 where nobody can answer, unless it can be undone."""
        if self.yes:
            return
        if sys.stdin is None or not sys.stdin.isatty():
            if reversible:
                return
            raise ShadowMeshError(
                "not_confirmed",
                f"nobody is there to answer: {question.rstrip('?')}",
                "say --yes if you mean it",
                kind=Kind.USAGE,
            )
        print(f"{visible(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ShadowMeshError("not_confirmed", "not confirmed", "nothing was changed", kind=Kind.FAILED)


def warn_of_readers() -> None:
    """Says so on stderr where a secret goes into a file that others can read, as `wg genkey` does."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or not of the system's
        return
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        print(
            "warning: others can read the file that this secret is written to: `chmod 600` it; after `umask 077` the shell"
            " makes files that they can't",
            file=sys.stderr,
        )


def visible(text: str) -> str:
    """Text for people, of as many lines as it has: nothing in it is a command to the terminal (`model.text`)."""
    return escaped(text, keep="\n\t")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned plain columns; what is None shows as a dash. On a terminal that is too narrow, sentences go on below themselves."""
    cells = [[_cell(c) for c in row] for row in (headers, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    if sys.stdout is not None and sys.stdout.isatty():
        import shutil

        widths = _narrowed(cells, widths, shutil.get_terminal_size().columns)
    return "\n".join(line for row in cells for line in _lines(row, widths))


def _narrowed(cells: Sequence[Sequence[str]], widths: Sequence[int], columns: int) -> list[int]:
    """Widths that fit, as far as sentences can give way: names, numbers, ids and times keep theirs, so that they can be copied."""
    narrow = list(widths)
    least = [max(_SENTENCE, *(len(word) for row in cells for word in row[i].split())) for i in range(len(narrow))]
    while sum(narrow) + _GAP * (len(narrow) - 1) > columns:
        widest = max(range(len(narrow)), key=lambda i: narrow[i] - least[i])
        if narrow[widest] <= least[widest]:
            break
        narrow[widest] -= 1
    return narrow


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    parts = [[c] if len(c) <= w else _wrapped(c, w) for c, w in zip(row, widths, strict=True)]
    for line in zip_longest(*parts, fillvalue=""):
        yield (" " * _GAP).join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width, break_long_words=False, break_on_hyphens=False)


def size(count: int) -> str:
    """Bytes for people: three figures, decimal units."""
    number, units = float(count), iter(("B", "kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while number >= 999.5 and unit != "PB":
        number, unit = number / 1000, next(units)
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"


def details(value: Mapping[str, object]) -> str:
    """One thing in full, a line per field."""
    width = max(map(len, value), default=0) + 1
    return "\n".join(f"{key + ':':<{width}}  {_cell(item)}" for key, item in value.items())


def _cell(value: object) -> str:
    """A value for people: one line, a dash for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_cell(v)}" for k, v in value.items() if v is not None) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    return "-" if value is None or value == "" else escaped(" ".join(str(value).split("\n")))


_COMMON: dict[str, tuple[Any, Any]] = {
    name: (Annotated[bool, typer.Option(*flags.split("/"), help=words)], False)
    for name, (flags, words) in GENERAL.items()
}
# `readable=False`: others may not list the directory (0711), and may ask at the socket in it
_STATE_DIR = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="SHADOWMESH_STATE_DIR",
        help="The daemon's directory on this host.",
        readable=False,
        show_envvar=False,
    ),
]
_DATA_DIR = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SHADOWMESH_DATA_DIR",
        help="A controller's directory on this host.",
        readable=False,
        show_envvar=False,
    ),
]


def verb(
    app: typer.Typer, name: str, example: str | Sequence[str], *, client: bool = False, managed: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a verb. The function's first parameter is the Call; the common options are added to its own.

    `example`: command lines without the program's name. `client`: takes --state-dir. `managed`: takes --data-dir (a
    local controller; else the one signed in to).
    """
    examples = [example] if isinstance(example, str) else example

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        common = dict(_COMMON)
        if client:
            common["state_dir"] = (_STATE_DIR, DEFAULT_STATE_DIR)
        if managed:
            common["data_dir"] = (_DATA_DIR, None)
        added = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in common.items()
        ]

        @functools.wraps(function)
        def run_verb(**arguments: Any) -> None:
            shared = {key: arguments.pop(key) for key in common}
            color = not shared.pop("no_color") and not os.environ.get("NO_COLOR")
            function(Call(color=color, **shared), **arguments)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
        run_verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run_verb.__annotations__ = {p.name: p.annotation for p in parameters}
        del run_verb.__wrapped__  # typer would read the inner signature through it
        epilog = "\n".join(f"shadowmesh {line}" for line in examples)
        app.command(name, cls=Verb, epilog=epilog, context_settings=HELP_NAMES)(run_verb)
        return function

    return register


def new_app(help_text: str, cls: type[TyperGroup] = Noun) -> typer.Typer:
    return typer.Typer(
        cls=cls,
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings=HELP_NAMES,
    )


def fail(error: ShadowMeshError, *, as_json: bool = False, exit_code: int | None = None) -> NoReturn:
    """The one place where an error becomes a line on stderr (or a JSON document) and an exit code."""
    code = error.kind.value if exit_code is None else exit_code
    if as_json:
        document = {
            "schema": "shadowmesh.error/1",
            "code": error.code,
            "what": error.what,
            "remedy": error.remedy,
            "exit": code,
        } | ({"details": list(error.details)} if error.details else {})
        print(json_text(document), file=sys.stderr)
    else:
        for line in error.details if len(error.details) > 1 else ():
            print(visible(" ".join(line.split())), file=sys.stderr)
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
    raise SystemExit(code)


def read_secret(argument: str, what: str) -> str:
    """The secret that an argument stands for: `-` reads stdin, `@FILE` a file, else it is literal."""
    if argument == "-":
        text = "" if sys.stdin is None else sys.stdin.readline()  # None: it was closed
    elif argument.startswith("@"):
        try:
            text = Path(argument[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "not text"
            raise ShadowMeshError(
                "no_secret", f"can't read the {what} from {argument[1:]} ({reason})", "check the path", kind=Kind.USAGE
            ) from e
    else:
        text = argument
        if text:
            hide_argument(text)
    text = text.strip()
    if not text:
        where = {"-": "stdin", "@": argument[1:]}.get(argument[:1])
        raise ShadowMeshError(
            "no_secret",
            f"the {what} from {where} is empty" if where else f"the {what} is empty",
            f"give the {what} as an argument, as `-` on a line of stdin, or as @FILE",
            kind=Kind.USAGE,
        )
    return text


def hide_argument(secret: str) -> None:
    """Overwrites a secret in this process's visible arguments (/proc/self/cmdline) with x: where it is an argument, or
    the value of an option `--name=value`. Other arguments stay as they are, whatever letters they share with it."""
    import ctypes  # not needed by most calls

    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc(5) fields 48 and 49
    except (OSError, IndexError, ValueError):
        return
    if not 0 < start < end:
        return
    encoded = os.fsencode(secret)
    at = start
    for argument in ctypes.string_at(start, end - start).split(b"\0"):
        option, _, value = argument.partition(b"=")
        if argument == encoded:
            ctypes.memset(at, ord("x"), len(encoded))
        elif value == encoded and option.startswith(b"--"):
            ctypes.memset(at + len(option) + 1, ord("x"), len(encoded))
        at += len(argument) + 1
