"""What a controller answers, safe to show (`model.text`): some of it comes from other machines and people."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from shadowmesh.model.text import escaped

T = TypeVar("T")


def visible(answer: T) -> T:
    """The same with all text in it made safe. What is plain already isn't copied: of thousands of clients hardly one is."""
    return _visible(answer)  # type: ignore[no-any-return]


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        if type(value) is not str or (value.isascii() and value.isprintable()):  # of an enumeration
            return value
        return escaped(value)
    if isinstance(value, BaseModel):
        changed = {}
        for name, old in value.__dict__.items():
            new = _visible(old)
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, (list, tuple)):
        made = [_visible(item) for item in value]
        return value if all(new is old for new, old in zip(made, value, strict=True)) else type(value)(made)
    if isinstance(value, dict):
        pairs = {_visible(key): _visible(item) for key, item in value.items()}
        return pairs if any(pairs.get(key) is not item for key, item in value.items()) else value
    return value
