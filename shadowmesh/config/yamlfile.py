"""A YAML file as settings by path, each with its line: what is unknown, twice there, or no setting is found here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shadowmesh.config.coercion import nearest
from shadowmesh.config.setting import Setting, sections_of, settings_of
from shadowmesh.model.errors import Kind, ShadowMeshError

MOST_BYTES = 1 << 20
FILE = "_file"  # a secret's key with this at its end names a file that holds it


@dataclass(frozen=True, slots=True)
class Written:
    """What stands in a file: `raw` is a scalar's text as written, or those of a list."""

    raw: str | list[str]
    line: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """`line` is 0 where it is of the file as a whole."""

    line: int
    what: str
    remedy: str = ""


def read_text(path: Path) -> str:
    """Raises ShadowMeshError: config_missing, config_unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
        return data.decode("utf-8-sig")
    except FileNotFoundError as e:
        raise ShadowMeshError(
            "config_missing", f"there is no {path}", "write one: `shadowmesh config example ROLE` prints it",
            kind=Kind.USAGE,
        ) from e  # fmt: skip
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "not UTF-8" if isinstance(e, UnicodeDecodeError) else str(e)
        denied = isinstance(e, PermissionError)
        raise ShadowMeshError(
            "config_unreadable",
            f"{path} can't be read ({why})",
            "run it as a user who may" if denied else "see what it is",
            kind=Kind.NOT_ALLOWED if denied else Kind.USAGE,
        ) from e


def parse(text: str, configuration: type) -> tuple[dict[str, Written], list[Mistake]]:
    """The settings in a file by path (a secret's file as `PATH_file`), and what is wrong with it."""
    mistakes: list[Mistake] = []
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        return {}, [Mistake(0 if mark is None else mark.line + 1, f"it is not YAML ({e.problem or e.context})")]
    except (yaml.YAMLError, RecursionError) as e:
        return {}, [Mistake(0, f"it is not YAML ({str(e).splitlines()[0] if str(e) else 'nested too deep'})")]
    found: dict[str, Written] = {}
    if root is None or _is_null(root):
        return found, mistakes
    if not isinstance(root, yaml.MappingNode):
        return found, [Mistake(root.start_mark.line + 1, "it is no mapping", "write sections with keys below them")]
    for path, written in _walk(root, "", configuration, mistakes):
        found[path] = written
    return found, mistakes


def top_words(text: str) -> set[str]:
    """The paths that a file names, known or not: by them one tells which role it is for."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return set()
    return set(_paths(root, "", set()))


def _paths(node: Any, prefix: str, seen: set[int]) -> Iterator[str]:
    """`seen`: mappings that were looked into; an alias stands for one of them, perhaps for one around it."""
    if isinstance(node, yaml.MappingNode) and id(node) not in seen:
        seen.add(id(node))
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield prefix + key.value
                yield from _paths(value, f"{prefix}{key.value}.", seen)


def _walk(
    node: yaml.MappingNode, prefix: str, configuration: type, mistakes: list[Mistake]
) -> Iterator[tuple[str, Written]]:
    settings, sections = settings_of(configuration), sections_of(configuration)
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            mistakes.append(Mistake(line, "a key is a word"))
            continue
        path = prefix + key.value
        if path in seen:
            mistakes.append(Mistake(line, f"{path} stands here again, after line {seen[path]}", "keep one of them"))
            continue
        seen[path] = line
        plain = path.removesuffix(FILE)
        if path in sections:
            if isinstance(value, yaml.MappingNode):
                yield from _walk(value, path + ".", configuration, mistakes)
            elif not _is_null(value):
                mistakes.append(
                    Mistake(line, f"{path} is a section", f"write its keys below it: {_below(path, settings)}")
                )
        elif path in settings or (path != plain and plain in settings and settings[plain].secret):
            if (raw := _raw(value)) is not None:
                yield path, Written(raw, line)
            elif not _is_null(value):
                mistakes.append(Mistake(line, f"{path} is one value, or a list of them, and not a mapping"))
        else:
            mistakes.append(Mistake(line, f"there is no key {path!r}", _meant(path, prefix, settings, sections)))


def _raw(node: yaml.Node) -> str | list[str] | None:
    if isinstance(node, yaml.SequenceNode):
        items = [item.value for item in node.value if isinstance(item, yaml.ScalarNode)]
        return items if len(items) == len(node.value) else None
    if isinstance(node, yaml.ScalarNode) and not _is_null(node):
        return str(node.value)
    return None


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _below(section: str, settings: dict[str, Setting]) -> str:
    return ", ".join(path for path in settings if path.startswith(section + "."))


def _meant(path: str, prefix: str, settings: dict[str, Setting], sections: dict[str, str]) -> str:
    """What to do about an unknown key: the nearest known one, here first, then anywhere."""
    word = path.removeprefix(prefix)
    known = [*settings, *sections, *(p + FILE for p, s in settings.items() if s.secret)]
    beside = {p.removeprefix(prefix): p for p in known if p.startswith(prefix) and "." not in p.removeprefix(prefix)}
    if found := nearest(word, list(beside)):
        return f"did you mean {beside[found]}?"
    leaves: dict[str, str] = {}
    for p in known:
        leaves.setdefault(p.rpartition(".")[2], p)
    if found := leaves.get(nearest(word, list(leaves)) or ""):
        return f"did you mean {found}?"
    closest = max(beside or leaves, key=lambda w: _likeness(word, w))
    return f"the nearest is {(beside or leaves)[closest]}; `shadowmesh config example ROLE` has them all"


def _likeness(one: str, other: str) -> float:
    import difflib

    return difflib.SequenceMatcher(None, one, other).ratio()
