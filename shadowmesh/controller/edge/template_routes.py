"""The part of the REST API that is about templates of networks, and turns to apply a file."""

from __future__ import annotations

from shadowmesh.controller.edge.access import At
from shadowmesh.controller.edge.needs import Administrator, MayCreate, SignedIn
from shadowmesh.controller.edge.routing import Name, router
from shadowmesh.model import api
from shadowmesh.model.templates import Template, TemplateCreate, TemplatePut


@router.post("/apply", tags=["templates"])
async def take_apply_turn(at: At, who: SignedIn, wish: api.ApplyTake) -> api.ApplyTurn:
    """Before a file is applied, and again while it is: two at once would undo each other's. 409 while somebody else does."""
    return await at.applying.take(who, wish.turn)


@router.delete("/apply/{turn}", tags=["templates"], status_code=204)
async def give_up_apply_turn(at: At, who: SignedIn, turn: Name) -> None:
    await at.applying.give_up(who, turn)


@router.get("/templates", tags=["templates"])
async def list_templates(at: At, who: MayCreate) -> api.Page[Template]:
    """Those that every controller has first."""
    return api.Page(items=list(await at.templates.list(who)))


@router.post("/templates", tags=["templates"], status_code=201)
async def create_template(at: At, who: Administrator, wish: TemplateCreate) -> Template:
    return await at.templates.create(who, wish)


@router.get("/templates/{template}", tags=["templates"])
async def show_template(at: At, who: MayCreate, template: Name) -> Template:
    return await at.templates.show(who, template)


@router.put("/templates/{template}", tags=["templates"])
async def put_template(at: At, who: Administrator, template: api.NetworkName, wish: TemplatePut) -> Template:
    """Makes it, or changes it to be this."""
    return await at.templates.put(who, template, wish)


@router.delete("/templates/{template}", tags=["templates"], status_code=204)
async def delete_template(at: At, who: Administrator, template: Name) -> None:
    """Networks that were made by it stay as they are."""
    await at.templates.delete(who, template)
