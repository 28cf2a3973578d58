"""From the arguments to the verb: only the module that holds the asked-for verb is imported, and only that verb built.

`shadowmesh status` has to answer at once; the help page and completion import everything.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from shadowmesh.model.errors import Kind, ShadowMeshError

# top-level word → module with a typer app; a word of GROUPS is a noun with verbs below it
VERBS = {
    "join": "client", "register": "client", "leave": "client", "up": "client", "down": "client",
    "status": "client", "peers": "client", "ping": "client", "why": "client", "wait": "client", "tui": "client", "top": "top",
    "diff": "declaring", "apply": "declaring", "logs": "connections", "topology": "connections", "usage": "usage", "bench": "bench", "doctor": "doctor", "help": "help", "demo": "lab", "completion": "completion",
}  # fmt: skip
GROUPS = {
    "daemon": "daemon", "export": "export", "controller": "controller", "relay": "relay", "network": "network", "template": "template",
    "client": "members", "device": "device", "member": "members", "user": "people", "group": "usergroups", "access": "accessrights", "api-key": "access", "audit": "access",
    "config": "config", "login": "signon", "logout": "signon", "lab": "lab",
    "webhook": "sinks", "syslog": "sinks", "plan": "usage",
}  # fmt: skip
# what people type that is no verb, and what they then want
MEANT = {
    "log": "`shadowmesh logs NETWORK` has how clients were connected, `journalctl -u shadowmesh` the daemon's log",
    "version": "say `shadowmesh --version`",
    "start": "`shadowmesh up` switches a network on, `shadowmesh daemon run` runs the daemon",
    "stop": "`shadowmesh down` switches a network off",
    "invite": "say `shadowmesh network invite NAME`",
    "create": "say `shadowmesh network create NAME`",
}
OPTIONS_MEANT = {("shadowmesh wait", f"--{state}"): f"say --state {state}" for state in ("up", "direct")}
# verbs that tools have for the same thing: who types one that isn't here is shown the one that is
ALIKE = (
    {"add", "create", "new", "make"},
    {"remove", "delete", "rm", "del", "destroy", "revoke"},
    {"list", "ls"},
    {"show", "get", "info", "describe", "inspect"},
    {"set", "edit", "update", "change", "modify", "configure"},
)
HELP = "Private networks that you run yourself: controller, blind relay and client in one tool."


def _modules(word: str | None) -> list[str]:
    chosen = VERBS.get(word or "") or GROUPS.get(word or "")
    return [chosen] if chosen else list(dict.fromkeys([*VERBS.values(), *GROUPS.values()]))


def build(word: str | None) -> Any:
    """The typer app that can run `word`; with None, or a word that is none, the whole tool."""
    import typer

    from shadowmesh.cli.base import new_app
    from shadowmesh.cli.pages import Top

    app = new_app(HELP, Top)

    def version(value: bool) -> None:
        if value:
            from shadowmesh import __version__

            print(f"shadowmesh {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        _version: bool = typer.Option(False, "--version", help="Print the version.", callback=version, is_eager=True),
    ) -> None:
        pass

    for name in _modules(word):
        importlib.import_module(f"shadowmesh.cli.{name}").attach(app)
    if word in VERBS:
        app.registered_commands = [c for c in app.registered_commands if c.name == word]
    return app


def run(arguments: list[str], imported: Callable[[], None] = lambda: None) -> None:
    """Runs one command line and exits with the contract's code. `imported` is called between parsing's imports and the verb."""
    from shadowmesh.cli.base import fail

    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug, as_json = "--debug" in options, "--json" in options
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter shows its number
    try:
        completing = "_SHADOWMESH_COMPLETE" in os.environ
        if completing:
            from shadowmesh.cli.completion import prepare

            arguments = prepare()
        for argument in options:
            if not argument.isascii():
                _check_encoding(argument)
        app = build(next((a for a in arguments if not a.startswith("-")), None))
        imported()
        outcome = app(args=[] if completing else arguments, prog_name="shadowmesh", standalone_mode=False)
        if sys.stdout is not None:  # closed by who started this
            sys.stdout.flush()
        raise SystemExit(outcome if isinstance(outcome, int) else 0)
    except ShadowMeshError as error:
        if debug:
            _show_traceback()
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        if type(error).__name__ == "Abort":
            raise SystemExit(130) from None
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _wrong_use(error, as_json=as_json)
        if debug:
            _show_traceback()
        what = (str(error).splitlines() or [""])[0]
        if isinstance(error, OSError) and error.strerror:
            what = error.strerror.lower() + (f": {error.filename}" if error.filename else "")
        else:
            what = f"{type(error).__name__}: {what}"
        remedy = "run it again with --debug to see where"
        fail(ShadowMeshError("failed", what, remedy, kind=Kind.FAILED), as_json=as_json)


def _show_traceback() -> None:
    import traceback

    from shadowmesh.cli.base import visible

    print(visible(traceback.format_exc()), end="", file=sys.stderr)


def _check_encoding(argument: str) -> None:
    """What isn't text in the locale's encoding arrives with lone surrogates (PEP 383), and no message can carry it."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        from shadowmesh.model.text import escaped

        raise ShadowMeshError(
            "bad_text", f"the argument {escaped(argument)} is not UTF-8", "write it in UTF-8", kind=Kind.USAGE
        ) from None


def _closest(word: str, words: list[str]) -> str:
    from difflib import SequenceMatcher

    return max(words, key=lambda other: SequenceMatcher(None, word, other).ratio())


def _wrong_use(error: Any, *, as_json: bool) -> NoReturn:
    """A usage error of the parser as one line; no arguments at all shows the help instead."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        raise SystemExit(2)
    from shadowmesh.cli.base import fail

    what = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "shadowmesh"
    what, _, guess = what.partition(" Did you mean ")
    what = what[:1].lower() + what[1:].rstrip(".")
    for kind, words in (("int", "whole number"), ("float", "number")):
        what = what.replace(f"is not a valid {kind}", f"is not a {words}")
    remedy = f"did you mean {guess}" if guess else f"see `{path} --help`"
    what, _, possible = what.partition(" (Possible options: ")
    option = re.match(r"no such option: (--?\w[\w-]*)", what)
    if option and possible:
        remedy = f"did you mean {_closest(option[1], possible.rstrip(')').split(', '))}?"
    if option and path == "shadowmesh":
        what, remedy = option[0], f"options stand after the verb: `shadowmesh VERB … {option[1]}`"
    elif option and (path, option[1]) in OPTIONS_MEANT:
        what, remedy = option[0], OPTIONS_MEANT[path, option[1]]
    word = re.fullmatch(r"no such command '(\w+)'", what)
    if word and path == "shadowmesh":
        remedy = MEANT.get(word[1], remedy)
    elif word:
        there = getattr(context.command, "commands", {}) if context is not None else {}
        alike = [verb for verb in there if any({word[1].lower(), verb} <= same for same in ALIKE)]
        remedy = f"did you mean '{alike[0]}'?" if alike else remedy
    fail(ShadowMeshError("wrong_use", what, remedy, kind=Kind.USAGE), as_json=as_json)
