"""Which peer or network a person means."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest

from shadowmesh.daemon.methods import Api
from shadowmesh.daemon.params import number
from shadowmesh.model.errors import Kind, ShadowMeshError


def member(name: str, number: int, net: int) -> Any:
    return SimpleNamespace(
        name=name,
        client_id=f"cli_{net}{number}",
        ip=ipaddress.ip_address(f"10.{net}.0.{number}"),
        ip6=ipaddress.ip_address(f"fd00:{net}::{number}"),
    )


def record_of(name: str, net: int) -> Any:
    """Each network is another controller's."""
    identity = SimpleNamespace(urls=(f"https://c{net}.example:8443",))
    controller = SimpleNamespace(identity=identity)
    return SimpleNamespace(
        name=name, network_id=f"id{net}", ref=f"net_{net}", client_id=f"cli_{net}1", controller=controller,
        approved=True,
    )  # fmt: skip


def network(name: str, net: int, *peers: str) -> Any:
    members = [member("here", 1, net), *(member(peer, 2 + n, net) for n, peer in enumerate(peers))]
    record = record_of(name, net)
    netmap = SimpleNamespace(members=members)
    return SimpleNamespace(name=name, id=f"id{net}", record=record, map=netmap, me=members[0])


@pytest.fixture
def api() -> Api:
    networks = [network("office", 1, "web", "db"), network("shop", 2, "web", "till"), network("office", 3, "attic")]
    networks.append(SimpleNamespace(name="new", id="id4", record=record_of("new", 4), map=None, me=None))
    return Api(
        SimpleNamespace(networks={n.id: n for n in networks}, former={}, environment=SimpleNamespace(clock=None))
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "client_id"),
    [("db", "cli_13"), ("till", "cli_23"), ("web@shop", "cli_22"), ("web@net_1", "cli_12"), ("10.2.0.2", "cli_22"),
     ("fd00:2:0::0:2", "cli_22"), ("cli_12", "cli_12"), ("attic@id3", "cli_32"), ("attic@Office@c3.example", "cli_32"), ("web@SHOP", "cli_22"), ("10.1.0.2@net_1", "cli_12")],
)  # fmt: skip
def test_a_peer_is_found_by_what_names_it(api: Api, text: str, client_id: str) -> None:
    assert api.peer(text)[1].client_id == client_id


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("web", Kind.USAGE, "say web@office@c1.example, web@shop"),
        ("db@office", Kind.USAGE, "say office@c1.example or office@c3.example"),
        ("nobody", Kind.NOT_FOUND, "shadowmesh peers"),
        ("here", Kind.USAGE, "here is this machine"),
        ("10.1.0.1", Kind.USAGE, "10.1.0.1 is this machine"),
        ("web@new", Kind.NOT_FOUND, "no peer"),
        ("web@none", Kind.NOT_FOUND, "there is new, office@c1.example, office@c3.example, shop"),
        ("@", Kind.NOT_FOUND, "no peer"),
        ("10.1.0.999", Kind.NOT_FOUND, "no peer"),
    ],
)
def test_what_names_none_or_several_is_said(api: Api, text: str, kind: Kind, words: str) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        api.peer(text)
    assert caught.value.kind is kind and words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "network_id"), [("shop", "id2"), ("SHOP", "id2"), ("net_1", "id1"), ("office@c3.example", "id3")]
)
async def test_a_network_is_found_by_what_names_it(api: Api, text: str, network_id: str) -> None:
    found = await api.network(None, {"network": text})  # type: ignore[arg-type]
    assert found["network_id"] == network_id


async def test_a_network_that_isnt_here_or_is_two_is_said(api: Api) -> None:
    for text, kind in (("nope", Kind.NOT_FOUND), ("office", Kind.USAGE)):
        with pytest.raises(ShadowMeshError) as caught:
            await api.network(None, {"network": text})  # type: ignore[arg-type]
        assert caught.value.kind is kind


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400, True, "4", None])
def test_what_is_no_number_to_count_with_is_refused(value: object) -> None:
    """A timer for "NaN" seconds is due at once, again and again."""
    with pytest.raises(ShadowMeshError) as refused:
        number({"timeout_s": value}, "timeout_s", 30.0)
    assert (refused.value.code, refused.value.kind) == ("malformed", Kind.USAGE)


def test_a_number_that_isnt_given_has_its_default() -> None:
    assert number({}, "timeout_s", 30.0) == 30.0 and number({"timeout_s": 2}, "timeout_s", 30.0) == 2.0
