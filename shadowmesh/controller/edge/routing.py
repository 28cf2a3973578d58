"""The router of the REST API, and what its routes take in their paths and queries."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from shadowmesh.controller.edge import problems
from shadowmesh.model.api import API
from shadowmesh.model.connectivity import Moment


class Route(APIRoute):
    """A path that a route writes out, or writes out further, is that route's alone, as the API's description has it.

    It is no name of another's pattern.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        needs = self.dependant
        takes_input = bool(self.param_convertors or self.body_field or needs.query_params or self.openapi_extra)
        self.responses = (
            problems.responses(takes_input=takes_input, changes="GET" not in (self.methods or ())) | self.responses
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"]
        if self.param_convertors and (path in _written_out() or any(r.match(path) for r in _further(self.path_format))):
            return Match.NONE, {}
        return super().matches(scope)


# of all of them
router = APIRouter(prefix=API, route_class=Route, generate_unique_id_function=lambda route: route.name)


@cache
def _written_out() -> frozenset[str]:
    return frozenset(
        route.path for route in router.routes if isinstance(route, APIRoute) and not route.param_convertors
    )


@cache
def _further(path_format: str) -> tuple[re.Pattern[str], ...]:
    """The patterns of routes that begin with this one's whole path, or write out more of it before their first parameter."""
    routes, written = [r for r in router.routes if isinstance(r, APIRoute)], _written(path_format)
    return tuple(
        r.path_regex
        for r in routes
        if r.path_format.startswith(path_format + "/")
        or (len(_written(r.path_format)) > len(written) and r.path_format.startswith(written))
    )


def _written(path_format: str) -> str:
    return path_format.partition("{")[0]


_NAME = r"^[\x21-\x7e]+$"
Name = Annotated[str, Path(max_length=100, pattern=_NAME)]
# An id, or an e-mail address as `api.Email` lets it be: of any script, long, perhaps with a slash in it.
UserName = Annotated[str, Path(max_length=1000, pattern=r"^[^\x00-\x20\x7f]+$")]
UserQuery = Annotated[str | None, Query(max_length=1000, pattern=r"^[^\x00-\x20\x7f]+$")]
KeyQuery = Annotated[str | None, Query(max_length=100, pattern=_NAME)]
Number = Annotated[str | None, Query(max_length=18, pattern=r"^[0-9]+$")]
MomentQuery = Annotated[Moment | None, Query()]
NetworkQuery = Annotated[str | None, Query(max_length=100, pattern=r"^[\x21-\x7e]+$")]
