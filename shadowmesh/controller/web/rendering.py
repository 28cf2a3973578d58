"""From what a page shows to its HTML. Everything that somebody named is text: templates escape all they are given."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shadowmesh import __version__
from shadowmesh.controller.authz import held_everywhere
from shadowmesh.controller.edge.problems import note_failure
from shadowmesh.controller.service.limits import TooMany
from shadowmesh.controller.web import pagewords
from shadowmesh.controller.web.visits import visit_of
from shadowmesh.model import api
from shadowmesh.model.api import Permission
from shadowmesh.model.errors import ShadowMeshError

HERE = Path(__file__).parent
HOME = "/web/"
NOTICES = {
    "renamed": "The machine has its new name.",
    "approved": "The machine was let in.",
    "denied": "The machine was turned away.",
    "removed": "The machine was removed.",
    "saved": "The settings are saved.",
    "unchanged": "Nothing was changed.",
    "deleted": "The network was deleted.",
    "created": "The network is made.",
    "revoked": "The invitation is revoked.",
    "role": "The role is given.",
    "norole": "The role is taken away.",
    "ended": "The session has ended.",
}


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "rate": pagewords.rate,
        "ms": pagewords.milliseconds,
        "moment": pagewords.moment,
        "size": pagewords.size,
    }
    found.globals |= {
        "version": __version__,
        "Permission": Permission,
        "path_of": pagewords.path_of,
        "health": pagewords.health,
    }
    return found


def page(request: Request, template: str, status: int = 200, /, **shown: Any) -> HTMLResponse:
    """The page of a template, for who looks at it."""
    visit = visit_of(request)
    who = None if visit.who is None or visit.who.enrolling else visit.who.whole
    text = (
        _templates()
        .get_template(template)
        .render(
            nonce=visit.nonce,
            token=visit.form_token,
            visit=visit,
            who=visit.who,
            administers=who is not None and who.administers,
            changes=who is not None and not who.read_only,
            creates=who is not None and not who.read_only and Permission.NETWORK_CREATE in held_everywhere(who),
            notice=NOTICES.get(request.query_params.get("done", "")),
            path=request.url.path,
            **_of_network(shown.get("network")),
            **shown,
        )
    )
    return HTMLResponse(text, status)


def noted(request: Request, answer: Response, error: ShadowMeshError) -> Response:
    """A page that says how a form failed: what failed at the controller is in its log, too, and who was too fast knows when to come again."""
    note_failure(request, error)
    if isinstance(error, TooMany):
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _of_network(network: api.Network | None) -> dict[str, Any]:
    """For the pages of one network: where they are, and what may be done there."""
    if network is None:
        return {}
    return {"base": f"/web/networks/{network.network_id}", "may": network.permissions}


def to(path: str, done: str = "") -> RedirectResponse:
    """After a form: the browser gets this page, so that loading it anew sends nothing again. `done` is a key of NOTICES."""
    return RedirectResponse(f"{path}?done={done}" if done else path, 303)
