"""JSON for the model's structs: strict when reading, canonical when writing.

Canonical means: keys sorted, no white space, UTF-8, one document per value. What is signed or hashed is
always these bytes. Fields that a newer version added are ignored when reading.
"""

from __future__ import annotations

import ipaddress
import threading
from typing import Any, TypeVar

import msgspec

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import FixedBytes

T = TypeVar("T")

_learnt: set[object] = set()
_learning = threading.Lock()

_IP_TYPES = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the model's messages: frozen, keyword-only, compared by value."""


def _encode(value: Any) -> Any:
    if isinstance(value, (FixedBytes, *_IP_TYPES)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _decode(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"expected a string for {kind.__name__}")
    if issubclass(kind, FixedBytes):
        return kind.parse(value)
    if issubclass(kind, _IP_TYPES):
        return kind(value)
    raise TypeError(f"{kind.__name__} has no JSON form")


def _learn(kind: object) -> None:
    """Lets msgspec look at a type in one thread only: two that meet it for the first time crash the interpreter (msgspec 0.22)."""
    if kind not in _learnt:
        with _learning:
            msgspec.json.Decoder(kind, dec_hook=_decode)
            _learnt.add(kind)


def to_json(value: object) -> bytes:
    """Canonical JSON bytes of a struct (or of plain lists, dicts and structs within)."""
    return msgspec.json.encode(value, enc_hook=_encode, order="sorted")


def to_builtins(value: object) -> Any:
    """The same as `to_json`, as plain dicts, lists and strings."""
    return msgspec.to_builtins(value, enc_hook=_encode)


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Parses and checks. Raises MalformedError with a sentence that names the field."""
    _learn(kind)
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_decode)
    except (msgspec.DecodeError, ValueError, RecursionError) as e:
        raise MalformedError(str(e)) from e


def from_builtins(value: object, kind: type[T]) -> T:
    """As `from_json`, from plain values."""
    _learn(kind)
    try:
        return msgspec.convert(value, type=kind, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError, RecursionError) as e:
        raise MalformedError(str(e)) from e


__all__ = ["SockAddr", "Struct", "from_builtins", "from_json", "to_builtins", "to_json"]
