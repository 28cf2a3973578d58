"""How the help pages look: the top one in groups, a verb's with an example and without what is the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from typing import Any

from typer.core import TyperCommand, TyperGroup

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
GENERAL = {
    "json": ("--json", "One JSON document on stdout; an error is one on stderr."),
    "quiet": ("-q/--quiet", "Errors alone, and secrets that are shown once."),
    "no_color": ("--no-color", "Plain text, as with NO_COLOR set."),
    "yes": ("-y/--yes", "Don't ask."),
    "debug": ("--debug", "Show tracebacks."),
}
_GENERAL_LINE = f"Everywhere: {', '.join(flags for flags, _ in GENERAL.values())}; see `shadowmesh help options`"

Column = Sequence[tuple[str, Sequence[tuple[str, str]]]]
_LEFT: Column = (
    (
        "This machine",
        (
            ("join", "enter a network by invite"),
            ("register", "… by URL and invite code"),
            ("leave", "leave one"),
            ("up", "switch one on"),
            ("down", "switch one off"),
            ("status", "networks, peers, paths"),
            ("peers", "the peers alone"),
            ("ping", "reach a peer"),
            ("why", "why a path is what it is"),
            ("wait", "until up, or direct"),
            ("top", "what moves now"),
            ("tui", "all of that, live"),
            ("bench", "how fast it is"),
            ("doctor", "what is missing here"),
            ("export", "as a WireGuard config"),
            ("login", "manage networks from here"),
            ("logout", "no longer"),
        ),
    ),
)
_RIGHT: Column = (
    (
        "Managing networks",
        (
            ("network", "networks and invites"),
            ("template", "settings of networks"),
            ("client", "the machines in a network"),
            ("device", "a machine in all of them"),
            ("member", "who may manage a network"),
            ("user", "who may sign in"),
            ("group", "users, several at once"),
            ("access", "who may do what, and why"),
            ("api-key", "keys for scripts"),
            ("audit", "who changed what"),
            ("logs", "what happens in one"),
            ("webhook", "tell programs of it"),
            ("syslog", "audit and logs to a SIEM"),
            ("topology", "the whole network"),
            ("usage", "bytes of each client"),
            ("plan", "how many they may be"),
        ),
    ),
)
_ROLES = (("daemon", "the client"), ("controller", "run one"), ("relay", "run one"), ("config", "files"))
_BELOW = (
    ("demo", "try"), ("lab", "try"), ("diff", "FILE"), ("apply", "FILE"), ("help", "WORD"), ("completion", "zsh"),
)  # fmt: skip
LISTED = [name for column in (_LEFT, _RIGHT) for _, verbs in column for name, _ in verbs]
LISTED += [name for name, _ in (*_ROLES, *_BELOW)]
_TOP = """\
Usage: shadowmesh VERB [ARGUMENTS] | --version; `VERB --help` has an example
  Private networks that you run yourself: controller, blind relay and client.
"""


_NUMBERS = {"int": "-?[0-9]{1,18}", "float": r"-?[0-9]{1,18}(\.[0-9]{0,18})?"}


class Verb(TyperCommand):
    """Its epilog is the examples, a line each."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            parameter.type = _plain_numbers(parameter.type)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.name not in GENERAL:
                records[parameter.param_type_name].append(record)
        for title, found in (("Arguments", records["argument"]), ("Options", records["option"])):
            if found:
                with formatter.section(title):
                    formatter.write_dl(found)
        formatter.write_paragraph()
        formatter.write_text(_GENERAL_LINE)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        examples = (self.epilog or "").splitlines()
        if examples:
            with formatter.section("Example" if len(examples) == 1 else "Examples"):
                for line in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _plain_numbers(kind: Any) -> Any:
    """The type of a parameter, which takes a number as people write it alone: not `nan`, `inf`, `1_000` or `+5`, as Python does."""
    word = kind.name.partition(" ")[0]
    form = _NUMBERS.get(word)
    if form is None:
        return kind
    convert = kind.convert

    def plain(value: Any, parameter: Any, ctx: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(form, value) is None:
            kind.fail(f"{value!r} is not a valid {word}.", parameter, ctx)
        return convert(value, parameter, ctx)

    strict = copy(kind)  # what all parameters share stays as it is
    strict.convert = plain
    return strict


class Noun(TyperGroup):
    """Verbs below a noun, each with its whole first sentence."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["VERB", "[ARGUMENTS]"]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, (child.help or "").partition("\n")[0]) for name, child in self.commands.items()])


class Top(TyperGroup):
    """The whole tool."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_TOP)
        left, right = _lines(_LEFT), _lines(_RIGHT)
        for i in range(max(len(left), len(right))):
            pair = [column[i] if i < len(column) else "" for column in (left, right)]
            formatter.write(f"{pair[0]:<41}{pair[1]}".rstrip() + "\n")
        formatter.write("\n")
        for row in (_ROLES, _BELOW):
            formatter.write("  ".join(f"{name} ({words})" for name, words in row) + "\n")


def _lines(column: Column) -> list[str]:
    lines: list[str] = []
    for title, verbs in column:
        lines += [""] if lines else []
        lines += [title, *(f"  {name:<10}  {words}" for name, words in verbs)]
    return lines
