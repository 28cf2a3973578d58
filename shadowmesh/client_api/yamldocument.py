"""YAML (and so JSON) that people write, with the line of each key: so that what is wrong is found where it stands."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Collection, Iterator, Mapping
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


class FileMistake(ShadowMeshError):
    """Something in a file is wrong, and the file is to be corrected."""

    def __init__(self, file: str, line: int | None, what: str, remedy: str = "correct the file") -> None:
        where = file if line is None else f"{file}, line {line}"
        super().__init__("bad_file", f"{where}: {what}", remedy, kind=Kind.USAGE)
        self.line = line or 0


class YamlDocument:
    """What a file says, as plain values, and where. `name`: of the file, for people; `folder`: that it is in, None for stdin.

    A mistake is raised where it is found. Who reads on behind it (`going_on`) has them all told at once by `check`.
    """

    def __init__(self, name: str, text: str, folder: Path | None = None) -> None:
        """Raises ShadowMeshError(bad_file)."""
        self.name = name
        self.folder = folder
        self._lines: dict[_Path, int] = {}
        self._mistakes: list[FileMistake] = []
        self._unreadable: dict[_Path, FileMistake] = {}
        self._left = max(
            _FEW, len(text)
        )  # no more values than characters, but where aliases stand for others again and again
        try:
            node = yaml.compose(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
            self.value = None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            line = None if mark is None else mark.line + 1
            raise FileMistake(name, line, f"it is not YAML ({e.problem or e.context})") from e
        except (yaml.YAMLError, RecursionError) as e:
            raise FileMistake(name, None, "it is not YAML") from e

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
        return cls("stdin", text) if file == "-" else cls(file, text, Path(file).parent)

    def _value(self, node: yaml.Node, path: _Path) -> Any:
        at = node.start_mark.line + 1
        if len(path) > _DEEPEST:
            raise FileMistake(self.name, at, "it is nested too deep")
        self._left -= 1
        if self._left < 0:
            raise FileMistake(self.name, at, "its aliases (*…) make far more of it than it is")
        self._lines.setdefault(path, at)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    self._mistakes.append(FileMistake(self.name, line, "a key that is no word"))
                elif key.value in found:
                    self._mistakes.append(FileMistake(self.name, line, f"{key.value} stands twice in one place"))
                else:
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
        ):  # of a date, a number: PyYAML looks no further
            kind = node.tag.rpartition(":")[2]
            what = f"{str(node.value)[:60]!r} reads as {kind}, and is none"
            mistake = FileMistake(self.name, at, what, "correct it, or put it in quotes if it is text")
            self._mistakes.append(mistake)
            self._unreadable[path] = mistake
            return None

    def line(self, *path: str | int) -> int:
        """Where that stands, or what it would belong to."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def has(self, *path: str | int) -> bool:
        """Whether anything stands there."""
        return path in self._lines

    def bad(self, path: _Path, what: str, remedy: str) -> FileMistake:
        """For what is wrong at this place."""
        return self._unreadable.get(path) or FileMistake(self.name, self.line(*path), what, remedy)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """A mistake within is kept for `check`, and what is behind this is looked at, too."""
        try:
            yield
        except FileMistake as e:
            self._mistakes.append(e)

    def check(self) -> None:
        """Raises ShadowMeshError(bad_file) with all that is wrong, in the order of the file, if anything is."""
        found = {str(e): e for e in sorted(self._mistakes, key=lambda mistake: mistake.line)}
        if len(found) == 1:
            raise next(iter(found.values()))
        if found:
            raise ShadowMeshError(
                "bad_file",
                f"{self.name} has {len(found)} mistakes",
                "correct them: nothing was changed",
                kind=Kind.USAGE,
                details=[*found],
            )

    def mapping(self, path: _Path, value: Any, known: Collection[str] | None = None) -> Mapping[str, Any]:
        """The value at this place as a mapping (nothing is an empty one), with known keys only. Raises ShadowMeshError(bad_file)."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.bad(path, f"{_named(path)} is no mapping", "write keys with their values below it")
        if known is None:
            return value
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                remedy = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known)}"
                inside = f" in {_named(path)}" if path else ""
                with self.going_on():
                    raise self.bad((*path, key), f"there is no key {key!r}{inside}", remedy)
        return {key: value[key] for key in value if key in known}

    def model(self, path: _Path, kind: type[M], value: Mapping[str, Any]) -> M:
        """A value of the API from what stands at this place. What is wrong with it is kept for `check`, and left out; where
        there is nothing without it, it is raised: ShadowMeshError(bad_file)."""
        try:
            return kind(**value)
        except ValidationError as e:
            wrong = set[int | str]()
            for error in e.errors():
                inside = (*path, *error["loc"])
                why = "isn't usable" if "pattern" in error["type"] else error["msg"][:1].lower() + error["msg"][1:]
                mistake = self.bad(inside, f"{_named(inside)} {error['input']!r}: {why}", "correct it")
                self._mistakes.append(mistake)
                wrong.update(error["loc"][:1])
            rest = {name: said for name, said in value.items() if name not in wrong}
            try:
                return kind(**rest)
            except ValidationError:
                raise mistake from e


def _named(path: _Path) -> str:
    return ".".join(map(str, path)) or "the file"


def yaml_text(value: Any) -> str:
    """As people write it, in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
