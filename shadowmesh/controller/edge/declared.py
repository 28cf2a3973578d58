"""What each route and each message of a WebSocket needs is declared, or the app isn't made: nothing is served by oversight."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.websockets import WebSocket

from shadowmesh.controller.edge.needs import DECLARING, Declaring
from shadowmesh.model.api import Permission


class LinkProof(StrEnum):
    """What a machine has to have shown for a message of it to count."""

    OWN_KEY = "the private half of the key that the message names"
    DEVICE = "the device's hello; it counts for that device alone"
    MEMBERSHIP = "the device's hello, and being a client in the network that the message names"
    RELAY = "the relay's hello; it counts for that relay alone"


Need = LinkProof | frozenset[Permission]


@dataclass(frozen=True, slots=True)
class DeclaredSocket:
    """A WebSocket. `reads`: a message, or a union of messages, that `handler` decodes what comes to."""

    handler: Callable[[WebSocket], Awaitable[None]]
    reads: Any
    needs: Mapping[type[msgspec.Struct], Need]

    def undeclared(self) -> Iterator[str]:
        for kind in get_args(self.reads) or (self.reads,):
            if not self.needs.get(kind):
                yield kind.__name__


def check_declared(
    app: FastAPI, sockets: Mapping[str, DeclaredSocket], declaring: Mapping[object, Declaring] = DECLARING
) -> None:
    """Raises RuntimeError that names what has declared no need, by a dependency that is `declaring`."""
    missing = [_named(route) for route in app.routes if not _declared(route, declaring)]
    missing += [f"{name} on {path}" for path, socket in sockets.items() for name in socket.undeclared()]
    if missing:
        raise RuntimeError(f"no need declared (edge/needs.py, edge/declared.py): {', '.join(missing)}")


def _declared(route: Any, declaring: Mapping[object, Declaring]) -> bool:
    return isinstance(route, APIRoute) and any(_declares(part, declaring) for part in parts_of(route.dependant))


def _declares(part: Dependant, declaring: Mapping[object, Declaring]) -> bool:
    """Whether a dependency says who may call the route; one that narrows has to say to what."""
    wants = declaring.get(part.call)
    return wants is not None and (not wants.scopes or bool(part.own_oauth_scopes))


def parts_of(dependant: Dependant) -> Iterator[Dependant]:
    """Its dependencies, and theirs."""
    for part in dependant.dependencies:
        yield part
        yield from parts_of(part)


def _named(route: Any) -> str:
    methods = ",".join(sorted(getattr(route, "methods", None) or ()))
    return f"{methods} {getattr(route, 'path', route)}".strip()
