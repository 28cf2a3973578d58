"""Nothing is served that hasn't said what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec
import pytest
from fastapi import Security
from starlette.routing import Route

from shadowmesh.controller.edge import needs
from shadowmesh.controller.edge.application import SOCKETS, make_app, router
from shadowmesh.controller.edge.declared import DeclaredSocket, LinkProof
from shadowmesh.controller.edge.routing import Route as OurRoute
from shadowmesh.model.devicelink import FromDevice
from shadowmesh.model.relaylink import FromRelay

if TYPE_CHECKING:
    pass


async def bare() -> None: ...


async def narrowed_to_nothing(who: Annotated[Any, Security(needs._narrowed, scopes=[])]) -> None: ...


async def handler(socket: Any) -> None: ...


class New(msgspec.Struct, tag="new"):
    pass


@pytest.mark.parametrize(
    "route",
    [
        OurRoute("/api/v1/oversight", bare),
        OurRoute("/api/v1/oversight", narrowed_to_nothing),
        Route("/api/v1/oversight", handler),
    ],
    ids=["none", "no permission", "outside FastAPI"],
)
def test_the_app_is_not_made_with_a_route_that_needs_nothing(route: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_app(None, "")  # type: ignore[arg-type]
    monkeypatch.setattr(router, "routes", [*router.routes, route])
    with pytest.raises(RuntimeError, match=r"GET.* /api/v1/oversight"):
        make_app(None, "")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(SOCKETS))
def test_the_app_is_not_made_with_a_message_that_needs_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = SOCKETS[path]
    first = next(iter(known.needs))
    wider = DeclaredSocket(known.handler, first | New, known.needs)
    forgotten = DeclaredSocket(known.handler, known.reads, {k: v for k, v in known.needs.items() if k is not first})
    nothing = DeclaredSocket(known.handler, known.reads, {**known.needs, first: frozenset()})
    for socket, name in ((wider, "New"), (forgotten, first.__name__), (nothing, first.__name__)):
        monkeypatch.setitem(SOCKETS, path, socket)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match=f"{name} on {path}"):
            make_app(None, "")  # type: ignore[arg-type]


def test_all_that_machines_send_is_declared() -> None:
    by_path = {path.rpartition("/")[2]: socket for path, socket in SOCKETS.items()}
    assert set(by_path["link"].needs) == set(get_args(FromDevice))
    assert set(by_path["relay-link"].needs) == set(get_args(FromRelay))
    for kind, need in by_path["link"].needs.items():
        if "network_id" in kind.__struct_fields__:
            assert need is LinkProof.MEMBERSHIP, kind
