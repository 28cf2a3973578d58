"""One's own account: sessions, and a second factor."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import ValidationError

from shadowmesh.controller.edge.access import At, source
from shadowmesh.controller.edge.problems import public, sentence, status_of
from shadowmesh.controller.web.forms import Posted
from shadowmesh.controller.web.join_pages import qr
from shadowmesh.controller.web.pageneeds import Enrolling, SignedIn
from shadowmesh.controller.web.pagerouting import Name, router
from shadowmesh.controller.web.rendering import noted, page, to
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError


@router.get("/sessions")
async def sessions_page(at: At, request: Request, who: SignedIn) -> Response:
    return page(request, "sessions.html", sessions=await at.sessions.list(who, None))


@router.post("/sessions/{session}/end")
async def end_session(at: At, who: SignedIn, session: Name, form: Posted) -> Response:
    await at.sessions.end(who, session)
    return to("/web/sessions", "ended")


@router.get("/second-factor")
async def second_factor_page(at: At, request: Request, who: Enrolling) -> Response:
    return page(
        request, "second_factor.html", factor=await at.second_factors.show(who), secret=None, codes=None, said=""
    )


@router.post("/second-factor/begin")
async def begin_second_factor(at: At, request: Request, who: Enrolling, form: Posted) -> Response:
    """By the password once more: a secret for an app, shown once."""
    said, status, secret, picture, failed = "", 200, None, None, None
    try:
        wish = accounts.PasswordProof(password=form.whole("password"))
        secret = await at.second_factors.enrol(who, wish, source(request))
        picture = qr(secret.uri)
    except ValidationError:
        said, status = "Give your password.", 422
    except ShadowMeshError as e:
        said, status, failed = sentence(e), status_of(e), e
    factor = await at.second_factors.show(who)
    shown = {"factor": factor, "secret": secret, "qr": picture, "codes": None, "said": said}
    answer = page(request, "second_factor.html", status, **shown)
    return answer if failed is None else noted(request, answer, failed)


@router.post("/second-factor/confirm")
async def confirm_second_factor(at: At, request: Request, who: Enrolling, form: Posted) -> Response:
    """By a code of the app. The recovery codes are on the page that comes of it, once."""
    said, status, codes, failed = "", 200, None, None
    try:
        codes = (await at.second_factors.confirm(who, accounts.CodeProof(code=form.text("code")))).recovery_codes
    except ValidationError:
        said, status = "A code has six digits. Begin again for a new QR code.", 422
    except ShadowMeshError as e:
        said, status, failed = f"{public(e)}. Begin again for a new QR code.", status_of(e), e
    factor = await at.second_factors.show(who)
    answer = page(request, "second_factor.html", status, factor=factor, secret=None, codes=codes, said=said)
    return answer if failed is None else noted(request, answer, failed)
