"""What the API's description says of texts is what is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shadowmesh.model import api
from shadowmesh.model.ids import ID_PREFIXES
from shadowmesh.model.keys import DevicePublicKey, FixedBytes, SealingPublicKey


def texts() -> Iterator[Any]:
    """Each kind of text with a pattern, as (name, its type, pattern, most characters)."""
    for name in ("Text", "Subnet", "Subnet6", "NetworkName", "ClientName", "RelayName", "KeyName", "Tag", "Email"):
        kind = TypeAdapter(getattr(api, name))
        described = kind.json_schema()
        yield pytest.param(kind, described["pattern"], described.get("maxLength", 400), id=name)


@pytest.mark.parametrize(("kind", "pattern", "most"), texts())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_text_that_fits_its_description_is_taken(
    kind: TypeAdapter[str], pattern: str, most: int, data: st.DataObject
) -> None:
    kind.validate_python(data.draw(st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= most)))


@pytest.mark.parametrize("text", ["a\0b@x", "a@\u202e", "a\u3164@x", "a b@x", "@x", "a@"])
def test_an_address_that_is_refused_is_none_by_its_description(text: str) -> None:
    kind = TypeAdapter[str](api.Email)
    assert not re.fullmatch(kind.json_schema()["pattern"], text)
    with pytest.raises(ValidationError):
        kind.validate_python(text)


@pytest.mark.parametrize("prefix", ID_PREFIXES)
def test_a_network_s_name_like_an_id_is_none_by_its_description(prefix: str) -> None:
    pattern = TypeAdapter(api.NetworkName).json_schema()["pattern"]
    assert not re.search(pattern, f"{prefix}_x") and not re.search(pattern, f"{prefix.upper()}_")
    assert re.search(pattern, prefix) and re.search(pattern, f"{prefix}-x")


@pytest.mark.parametrize("kind", [DevicePublicKey, SealingPublicKey])
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_key_s_pattern_is_its_text_form(kind: type[FixedBytes], data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=kind.LENGTH, max_size=kind.LENGTH))
    assert re.fullmatch(kind.pattern(), str(kind(raw)))
    if kind.LENGTH < 100:
        text = data.draw(st.from_regex(kind.pattern(), fullmatch=True))
        assert str(kind.parse(text)) == text
