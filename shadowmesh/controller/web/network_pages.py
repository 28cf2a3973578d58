"""Making a network, changing what is set of it, and deleting it."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import ValidationError

from shadowmesh.controller.authz import Permission, Principal, require_permission
from shadowmesh.controller.edge.access import At
from shadowmesh.controller.edge.problems import sentence, status_of
from shadowmesh.controller.service.addresspool import parse_subnet
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.web.forms import Posted
from shadowmesh.controller.web.offers import offered
from shadowmesh.controller.web.pageneeds import MayConfigure, MayCreate, MayDelete
from shadowmesh.controller.web.pagerouting import NetworkID, router
from shadowmesh.controller.web.rendering import HOME, noted, page, to
from shadowmesh.controller.web.settingsform import SettingsForm, counted, errors_of
from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError


@router.get("/new-network")
async def new_network(request: Request, who: MayCreate) -> Response:
    require_permission(who, Permission.NETWORK_CREATE)
    return page(request, "network_new.html", values={}, errors={})


@router.post("/new-network")
async def create_network(at: At, request: Request, who: MayCreate, form: Posted) -> Response:
    fields = {name: form.text(name) for name in ("name", "subnet", "description", "max_clients")}
    failed = None
    try:
        wish = api.NetworkCreate(
            name=fields["name"],
            subnet=fields["subnet"] or None,
            description=fields["description"],
            approval=form.flag("approval"),
            max_clients=counted(fields["max_clients"]),
        )
        made = await at.networks.create(who, wish, IdempotentRequest.of(None, "networks", wish))
        return to(f"/web/networks/{made.network_id}/join", "created")
    except ValidationError as e:
        errors, status = errors_of(e), 422
    except ShadowMeshError as e:
        errors, status, failed = {"": sentence(e)}, status_of(e), e
    values = fields | {"approval": form.flag("approval")}
    answer = page(request, "network_new.html", status, values=values, errors=errors)
    return answer if failed is None else noted(request, answer, failed)


@router.get("/networks/{network}/settings")
async def settings_page(at: At, request: Request, who: MayConfigure, network: NetworkID) -> Response:
    shown = await offered(at, who, network, Permission.NETWORK_CONFIGURE)
    return await _form(at, request, who, shown, SettingsForm.of(shown))


async def _form(
    at: Services,
    request: Request,
    who: Principal,
    network: api.Network,
    settings: SettingsForm,
    status: int = 200,
    errors: dict[str, str] | None = None,
) -> Response:
    relays = [relay.name for relay in (await at.relays.list(who, None, 1000)).items]
    if settings.relay and settings.relay not in relays:
        relays.append(settings.relay)
    return page(request, "settings.html", status, network=network, values=settings, relays=relays, errors=errors or {})


@router.post("/networks/{network}/settings")
async def change_settings(at: At, request: Request, who: MayConfigure, network: NetworkID, form: Posted) -> Response:
    """First shows what would become different, then does it, if nobody changed anything meanwhile."""
    shown = await offered(at, who, network, Permission.NETWORK_CONFIGURE)
    before, after = SettingsForm.of(shown), SettingsForm.read(form)
    changes = before.changes(after)
    if not changes:
        return to(f"/web/networks/{network}/settings", "unchanged")
    try:
        wish = before.patch(after)
        parse_subnet(after.subnet)
    except ValidationError as e:
        return await _form(at, request, who, shown, after, 422, errors_of(e))
    except ShadowMeshError as e:
        return await _form(at, request, who, shown, after, 422, {"subnet": sentence(e)})
    was = form.text("was")
    if was != before.digest:
        return _review(request, shown, after, meanwhile=bool(was))
    try:
        made = await at.networks.set(who, network, wish, lambda now: SettingsForm.of(now).digest == was)
    except ShadowMeshError as e:
        if e.code == "changed_meanwhile":
            now = await offered(at, who, network, Permission.NETWORK_CONFIGURE)
            if not SettingsForm.of(now).changes(after):  # to the same
                return to(f"/web/networks/{network}/settings", "saved")
            return _review(request, now, after, meanwhile=True)
        return noted(request, await _form(at, request, who, shown, after, status_of(e), {"": sentence(e)}), e)
    if made.warnings:
        return page(request, "settings_saved.html", network=made, warnings=made.warnings)
    return to(f"/web/networks/{network}/settings", "saved")


def _review(request: Request, network: api.Network, after: SettingsForm, *, meanwhile: bool) -> Response:
    """What would become different. `meanwhile`: of what somebody else set since this was reviewed."""
    before = SettingsForm.of(network)
    return page(
        request,
        "settings_check.html",
        network=network,
        differences=before.changes(after),
        after=after,
        was=before.digest,
        meanwhile=meanwhile,
    )


@router.post("/networks/{network}/delete")
async def delete_network(at: At, request: Request, who: MayDelete, network: NetworkID, form: Posted) -> Response:
    """By its name, typed once more."""
    shown = await offered(at, who, network, Permission.NETWORK_DELETE)
    if form.text("name") != shown.name:
        errors = {"delete": f"to delete it, type {shown.name}"}
        return await _form(at, request, who, shown, SettingsForm.of(shown), 422, errors)
    await at.networks.delete(who, network)
    return to(HOME, "deleted")
