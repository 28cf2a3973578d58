"""YAML (and so JSON) that people write, with the line of each key: so that what is wrong is found where it stands."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shadowmesh.model.errors import Kind, ShadowMeshError

M = TypeVar("M", bound=BaseModel)
_LARGEST = 4 * 1024 * 1024  # bytes
_DEEPEST = 20
_FEW = 10_000  # values that any file may have
_Path = tuple[str | int, ...]


class YamlDocument:
    """What a file says, as plain values, and where. `name`: of the file, for people."""

    def __init__(self, name: str, text: str) -> None:
        """Raises ShadowMeshError(bad_file)."""
        self.name = name
        self._lines: dict[_Path, int] = {}
        self._left = max(
            _FEW, len(text)
        )  # no more values than characters, but where aliases stand for others again and again
        try:
            node = yaml.compose(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
            self.value = None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            where = "" if mark is None else f", line {mark.line + 1}"
            raise self._bad(f"{name}{where}: it is not YAML ({e.problem or e.context})") from e
        except (yaml.YAMLError, RecursionError) as e:
            raise self._bad(f"{name}: it is not YAML") from e

    @classmethod
    def read(cls, file: str) -> YamlDocument:
        """Of a path, or `-`: stdin. Raises ShadowMeshError: no_file, bad_file."""
        try:
            if file == "-":
                raw = b"" if sys.stdin is None else sys.stdin.read(_LARGEST + 1).encode()
            else:
                with Path(file).open("rb") as opened:
                    raw = opened.read(_LARGEST + 1)
            text = raw.decode()
        except (OSError, UnicodeDecodeError) as e:
            why = e.strerror if isinstance(e, OSError) else "not text"
            raise ShadowMeshError("no_file", f"{file} can't be read ({why})", "check the path", kind=Kind.USAGE) from e
        if len(raw) > _LARGEST:
            raise ShadowMeshError("no_file", f"{file} is larger than 4 MiB", "check the path", kind=Kind.USAGE)
        return cls("stdin" if file == "-" else file, text)

    def _value(self, node: yaml.Node, path: _Path) -> Any:
        if len(path) > _DEEPEST:
            raise self._bad(f"{self.name}, line {node.start_mark.line + 1}: it is nested too deep")
        self._left -= 1
        if self._left < 0:
            raise self._bad(
                f"{self.name}, line {node.start_mark.line + 1}: its aliases (*…) make far more of it than it is"
            )
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise self._bad(f"{self.name}, line {line}: a key that is no word")
                if key.value in found:
                    raise self._bad(f"{self.name}, line {line}: {key.value} stands twice in one place")
                self._lines[(*path, key.value)] = line
                found[key.value] = self._value(value, (*path, key.value))
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, number)) for number, item in enumerate(node.value)]
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            ValueError,
        ) as e:  # of a date, a number: PyYAML looks no further
            kind = node.tag.rpartition(":")[2]
            raise self._bad(
                f"{self.name}, line {node.start_mark.line + 1}: {str(node.value)[:60]!r} reads as {kind}, and is none",
                "correct it, or put it in quotes if it is text",
            ) from e

    def line(self, *path: str | int) -> int:
        """Where that stands, or what it would belong to."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def bad(self, path: _Path, what: str, remedy: str) -> ShadowMeshError:
        """For what is wrong at this place."""
        return self._bad(f"{self.name}, line {self.line(*path)}: {what}", remedy)

    @staticmethod
    def _bad(what: str, remedy: str = "correct the file") -> ShadowMeshError:
        return ShadowMeshError("bad_file", what, remedy, kind=Kind.USAGE)

    def mapping(self, path: _Path, value: Any, known: Collection[str] | None = None) -> Mapping[str, Any]:
        """The value at this place as a mapping (nothing is an empty one), with known keys only. Raises ShadowMeshError(bad_file)."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.bad(path, f"{_named(path)} is no mapping", "write keys with their values below it")
        for key in value if known is not None else ():
            assert known is not None
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                remedy = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known)}"
                inside = f" in {_named(path)}" if path else ""
                raise self.bad((*path, key), f"there is no key {key!r}{inside}", remedy)
        return value

    def model(self, path: _Path, kind: type[M], value: Mapping[str, Any]) -> M:
        """A value of the API from what stands at this place. Raises ShadowMeshError(bad_file)."""
        try:
            return kind(**value)
        except ValidationError as e:
            first = e.errors()[0]
            inside = (*path, *first["loc"])
            why = "isn't usable" if "pattern" in first["type"] else first["msg"][:1].lower() + first["msg"][1:]
            raise self.bad(inside, f"{_named(inside)} {first['input']!r}: {why}", "correct it") from e


def _named(path: _Path) -> str:
    return ".".join(map(str, path)) or "the file"


def yaml_text(value: Any) -> str:
    """As people write it, in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
