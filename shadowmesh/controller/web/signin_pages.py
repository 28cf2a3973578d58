"""Signing in and out."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import ValidationError

from shadowmesh.controller.edge.access import At, source, user_agent
from shadowmesh.controller.edge.problems import sentence, status_of
from shadowmesh.controller.service.api_keys import KEY_PREFIX
from shadowmesh.controller.web.forms import Form, Posted, PostedByVisitor
from shadowmesh.controller.web.pageneeds import Anyone
from shadowmesh.controller.web.pagerouting import Next, router
from shadowmesh.controller.web.rendering import HOME, noted, page, to
from shadowmesh.controller.web.visits import DEVICE, visit_of
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError


@router.get("/sign-in", dependencies=[Anyone])
async def sign_in_page(request: Request, next: Next = HOME) -> Response:  # noqa: A002 - the query's name
    return _page(request, next)


def _page(
    request: Request, following: str, status: int = 200, *, email: str = "", said: str = "", renewing: bool = False
) -> Response:
    return page(request, "sign_in.html", status, email=email, said=said, renewing=renewing, following=following)


@router.post("/sign-in", dependencies=[Anyone])
async def sign_in(at: At, request: Request, form: PostedByVisitor, next: Next = HOME) -> Response:  # noqa: A002
    """By password, and a code where there is a second factor; or by API key. A session that this browser had before ends."""
    visit, email = visit_of(request), form.text("email")
    earlier = visit.refresh_token
    try:
        if form.flag("api_key"):
            await _by_key(at, request, form.text("api_key"))
        else:
            visit.keep(
                await at.signing_in.login(_login(form, visit.cookies.get(DEVICE)), source(request), user_agent(request))
            )
    except ShadowMeshError as e:
        renewing = e.code in {"password_change_required", "weak_password", "same_password"}
        said = "This account asks for a code, too." if e.code == "code_required" else sentence(e)
        return noted(request, _page(request, next, status_of(e), email=email, said=said, renewing=renewing), e)
    except ValidationError:
        return _page(
            request, next, 422, email=email, said="give an e-mail address and a password; a code has six digits"
        )
    if earlier is not None:
        await at.sessions.logout(earlier)
    return to(next)


def _login(form: Form, device: str | None) -> accounts.Login:
    return accounts.Login(
        email=form.text("email"),
        password=form.whole("password"),
        new_password=form.whole("new_password") or None,
        code=form.text("code") or None,
        device_token=device,
    )


async def _by_key(at: At, request: Request, key: str) -> None:
    """Raises ShadowMeshError(not_signed_in)."""
    found = await at.credentials.principal(key if key.startswith(KEY_PREFIX) and len(key) < 200 else KEY_PREFIX)
    assert found.key is not None
    visit_of(request).keep_key(key)


@router.post("/sign-out", dependencies=[Anyone])
async def sign_out(at: At, request: Request, form: Posted) -> Response:
    visit = visit_of(request)
    if visit.refresh_token is not None:
        await at.sessions.logout(visit.refresh_token)
    visit.forget()
    return to("/web/sign-in")
