"""A name is one thing's: no two modules, and no two public classes, are called the same, but for those in the lists here."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

HOUSE = Path(__file__).parents[2] / "shadowmesh"

MODULES = {
    "app": "the process of a role, around what it runs",
    "child": "a pump's process: the same entry for each of the pumps",
    "credentials": "in the controller's layers: what was shown, and from a token to it",
    "events": "what a room tells whoever listens to it",
    "networks": "in the controller's layers: from a name to a row, what may be done, and the rows",
    "outbox": "what waits to be sent, so that who posts never waits",
    "server": "what listens for a role",
}
"""Names of several modules, with what all of that name are."""

NAMED_AFTER_OTHERS = ("cli",)
"""Rooms whose modules are called by what they are about: a verb's module by its noun."""

CLASSES = {
    "Candidate": "a way that may be tried, as it is sent and as it is chosen",
    "CandidateKind": "with it",
    "Challenge": "a message, of the device's link, the relay and enrolment",
    "Hello": "a message, the first of the device's link, the relay and the bench",
    "NoSession": "a message, between peers and of a relay",
    "Outbox": "what waits to be sent",
    "Ping": "a message, between peers and to a relay",
    "Pong": "a message, between peers and of a relay",
}
"""Names of several public classes, with what all of that name are."""

SHAPES = ("model/api.py", "model/accounts.py")
"""The shapes of the API have the names that its specification gives them, and are written with their module's before them."""


def modules() -> list[Path]:
    return [path.relative_to(HOUSE) for path in HOUSE.rglob("*.py") if path.stem not in {"__init__", "__main__"}]


def repeated(named: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, path in named:
        found[name].append(str(path))
    return {name: sorted(places) for name, places in found.items() if len(places) > 1}


def test_no_two_modules_have_one_name() -> None:
    found = repeated((path.stem, path) for path in modules() if path.parts[0] not in NAMED_AFTER_OTHERS)
    assert {name: places for name, places in found.items() if name not in MODULES} == {}, (
        "name them for what is in each"
    )
    assert sorted(MODULES) == sorted(found), "a name that is one module's again needs no entry"


def test_no_two_public_classes_have_one_name() -> None:
    classes = [
        (statement.name, path)
        for path in modules()
        if path.as_posix() not in SHAPES
        for statement in ast.parse((HOUSE / path).read_text()).body
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_")
    ]
    found = repeated(classes)
    assert {name: places for name, places in found.items() if name not in CLASSES} == {}, "name them for what each is"
    assert sorted(CLASSES) == sorted(found), "a name that is one class's again needs no entry"
