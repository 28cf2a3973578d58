"""`shadowmesh diff`, `apply`: what a controller shall have, as a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli.base import Call, verb
from shadowmesh.cli.managed import connect
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.client_api.desiredstate import DesiredState, FoundState
    from shadowmesh.client_api.drift import Drift
    from shadowmesh.client_api.rest import ControllerClient

DIFFERS = 8
_MARKS = {"create": "+", "set": "~", "delete": "-"}
Prune = Annotated[
    bool,
    typer.Option(
        "--prune", help="Remove what the file's sections don't name (`prune: true` in the file says the same)."
    ),
]


def attach(app: typer.Typer) -> None:
    verb(app, "diff", ["diff networks.yaml", "diff --export > networks.yaml"], managed=True)(diff)
    verb(app, "apply", ["apply networks.yaml", "apply networks.yaml --prune --yes"], managed=True)(apply)


def diff(
    call: Call,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON; - for stdin.", metavar="[FILE]")] = None,
    prune: Prune = False,
    export: Annotated[bool, typer.Option("--export", help="Print what is there as such a file.")] = False,
) -> None:
    """Say what `apply` would change; exit code 8 if the controller isn't as the file says."""
    from shadowmesh.client_api.desiredstate import as_file
    from shadowmesh.client_api.driftplan import left_alone, look
    from shadowmesh.client_api.yamldocument import yaml_text

    if export != (file is None):
        raise ShadowMeshError(
            "bad_option",
            "there is a file to compare, or --export",
            "say `shadowmesh diff FILE`, or `shadowmesh diff --export`",
            kind=Kind.USAGE,
        )
    if file is None:
        with connect(call) as controller:
            document = as_file(look(controller, None))
        call.done("state/1", document, lambda: yaml_text(document).rstrip("\n"))
        return
    with _planned(call, file, prune=prune) as (_, desired, found, changes):
        pass
    call.done("diff/1", _document(changes), lambda: _text(changes) or "nothing differs")
    if not (prune or desired.prune) and (left := left_alone(desired, found)):
        call.note(f"not in the file, and left as they are without --prune: {', '.join(left)}")
    _note_overlaps(call, found, changes)
    if changes:
        raise SystemExit(DIFFERS)


def apply(
    call: Call,
    file: Annotated[str, typer.Argument(help="YAML or JSON; - for stdin.", metavar="FILE")],
    prune: Prune = False,
) -> None:
    """Make the controller as a file says: networks, groups, templates, plans, settings, relays, webhooks, syslog.

    Everything is checked before anything is changed. What the file doesn't name stays as it is, unless it says
    `prune: true`. `diff --export` prints what is there in this form.
    """
    from shadowmesh.client_api.driftplan import look, plan

    with _planned(call, file, prune=prune) as (controller, desired, found, changes):
        if not changes:
            call.done("apply/1", _document(changes), "nothing differs: nothing was changed")
            return
        call.note(_text(changes))
        _note_overlaps(call, found, changes)
        call.confirm(f"make these {len(changes)} changes?")
        with _turn(controller) as goes_on:
            now = plan(desired, look(controller, desired), prune=prune)
            if _document(now) != _document(changes):
                raise ShadowMeshError(
                    "state_changed",
                    "others have changed what the controller has since that was looked at; nothing was changed",
                    "apply again: it shows what is left to do",
                    kind=Kind.CONFLICT,
                )
            for number, change in enumerate(now):
                try:
                    goes_on()
                    change.do(controller)
                except ShadowMeshError as e:
                    raise ShadowMeshError(
                        e.code,
                        f"{_head(change)[2:]}: {e.what} ({number} of {len(changes)} changes were made)",
                        f"{e.remedy or 'see why'}; then `apply` again: it goes on where this ended",
                        kind=e.kind,
                    ) from e
    call.done("apply/1", _document(changes), f"{len(changes)} changes made")


def _note_overlaps(call: Call, found: FoundState, changes: Sequence[Drift]) -> None:
    from shadowmesh.client_api.overlaps import overlaps

    for told in overlaps(found.networks, changes):
        call.note(told)


@contextlib.contextmanager
def _turn(controller: ControllerClient) -> Iterator[Callable[[], None]]:
    """Nobody else applies a file meanwhile; to be told that it goes on. Raises ShadowMeshError(apply_running)."""
    try:
        mine = controller.apply_turn()
    except ShadowMeshError as e:
        if e.kind is not Kind.NOT_FOUND:
            raise
        yield lambda: None  # a controller of before, which knows no turns
        return
    told = time.monotonic()

    def goes_on() -> None:
        nonlocal told
        if time.monotonic() - told > mine.seconds / 4:
            controller.apply_turn(mine.turn)
            told = time.monotonic()

    try:
        yield goes_on
    finally:
        with contextlib.suppress(ShadowMeshError):
            controller.apply_done(mine.turn)


@contextlib.contextmanager
def _planned(
    call: Call, file: str, *, prune: bool
) -> Iterator[tuple[ControllerClient, DesiredState, FoundState, list[Drift]]]:
    """All mistakes of the file are told at once: those that the controller alone knows of with those that anyone sees."""
    from shadowmesh.client_api.desiredstate import read_desired
    from shadowmesh.client_api.driftplan import look, plan
    from shadowmesh.client_api.yamldocument import FileMistake, YamlDocument

    document = YamlDocument.read(file)
    desired = read_desired(document)
    with contextlib.ExitStack() as stack:
        try:
            controller = stack.enter_context(connect(call))
            found = look(controller, desired)
            changes = plan(desired, found, prune=prune)
        except ShadowMeshError as e:
            if not isinstance(e, FileMistake):
                document.check()
            raise
        yield controller, desired, found, changes


def _document(changes: Sequence[Drift]) -> dict[str, Any]:
    return {
        "differs": bool(changes),
        "changes": [
            {
                "action": change.action,
                "kind": change.kind,
                "name": change.name,
                "of": change.of,
                "fields": {name: {"before": before, "after": after} for name, (before, after) in change.fields.items()},
            }
            for change in changes
        ],
    }


def _text(changes: Sequence[Drift]) -> str:
    if not changes:
        return ""
    lines: list[str] = []
    for change in changes:
        lines.append(_head(change))
        lines += [f"    {line}" for line in _fields(change)]
    counts = ((sum(c.action == action for c in changes), words) for action, words in _COUNTED)
    return "\n".join([*lines, ", ".join(f"{count} to {words}" for count, words in counts if count)])


_COUNTED = (("create", "make"), ("set", "change"), ("delete", "remove"))


def _head(change: Drift) -> str:
    of = "" if change.of is None else f" of {change.of}"
    return f"{_MARKS[change.action]} {change.kind} {change.name}{of}"


def _fields(change: Drift) -> Iterable[str]:
    for name, (before, after) in change.fields.items():
        if change.action == "create":
            yield f"{name}: {_word(after)}"
        elif change.action == "delete":
            yield f"{name}: {_word(before)}"
        else:
            yield f"{name}: {_word(before)} → {_word(after)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"{value['role']} ({', '.join(value['permissions']) or 'nothing'})"
    return "-" if value is None or value == "" else str(value)
