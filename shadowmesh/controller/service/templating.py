"""Templates of networks: built-in ones, and those that administrators make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, require_admin, require_permission
from shadowmesh.controller.refusals import conflict, unknown
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.templates import BUILT_IN, Template, TemplateCreate, TemplatePut, TemplateSettings

MOST_TEMPLATES = 500


def filled_in(conn: Connection, wish: api.NetworkCreate) -> api.NetworkCreate:
    """The wish with what its template says and it doesn't. Raises ShadowMeshError(template_unknown)."""
    if wish.template is None:
        return wish
    said = _get(conn, wish.template).settings.said()
    mine = wish.model_dump(exclude_unset=True)
    return api.NetworkCreate(**(said | mine))


class Templates:
    """What is good for whoever may make networks to read, and an administrator's to write."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def list(self, who: Principal) -> Sequence[Template]:
        require_permission(who, Permission.NETWORK_CREATE)
        t = schema.templates

        def tx(conn: Connection) -> list[Template]:
            return [*BUILT_IN.values(), *map(_view, conn.execute(sa.select(t).order_by(t.c.name_key)))]

        return await self._context.read(tx)

    async def show(self, who: Principal, name: str) -> Template:
        require_permission(who, Permission.NETWORK_CREATE)
        return await self._context.read(lambda conn: _get(conn, name))

    async def create(self, who: Principal, wish: TemplateCreate) -> Template:
        """Raises ShadowMeshError: template_exists, templates_full."""
        return await self._write(who, wish.name, wish, new=True)

    async def put(self, who: Principal, name: str, wish: TemplatePut) -> Template:
        """Made, or changed to be this. Raises ShadowMeshError: template_built_in, templates_full, and bad names as `create`."""
        return await self._write(who, name, wish, new=False)

    async def _write(self, who: Principal, name: str, wish: TemplatePut, *, new: bool) -> Template:
        require_admin(who)
        wish = TemplateCreate(name=name, description=wish.description, settings=wish.settings)
        t, key = schema.templates, name.lower()
        values: dict[str, Any] = {"description": wish.description, "settings": wish.settings.said()}

        def tx(conn: Connection) -> Template:
            old = conn.execute(sa.select(t).where(t.c.name_key == key)).first()
            if key in BUILT_IN or (new and old is not None):
                raise conflict(
                    "template_built_in" if key in BUILT_IN else "template_exists",
                    f"there is a template {name} already"
                    + (", which every controller has and nobody changes" if key in BUILT_IN else ""),
                    "choose another name",
                )
            if old is None:
                _check_room(conn)
                made = {"created_at": self._context.now(), "created_by": who.name}
                conn.execute(t.insert().values(name_key=key, name=name, **made, **values))
                record(self._context, conn, who, "template.create", name, after=values)
            elif (before := {n: old._mapping[n] for n in values}) != values:
                conn.execute(t.update().where(t.c.name_key == key).values(**values))
                record(self._context, conn, who, "template.set", old.name, before=before, after=values)
            return _get(conn, name)

        return await self._context.write(tx)

    async def delete(self, who: Principal, name: str) -> None:
        """Networks that were made by it stay as they are. Raises ShadowMeshError: template_unknown, template_built_in."""
        require_admin(who)
        t = schema.templates

        def tx(conn: Connection) -> None:
            found = _get(conn, name)
            if found.built_in:
                raise conflict("template_built_in", f"every controller has the template {name}", "leave it unused")
            conn.execute(t.delete().where(t.c.name_key == name.lower()))
            before = {"description": found.description, "settings": found.settings.said()}
            record(self._context, conn, who, "template.delete", found.name, before=before)

        await self._context.write(tx)


def _check_room(conn: Connection) -> None:
    if conn.execute(sa.select(sa.func.count()).select_from(schema.templates)).scalar_one() >= MOST_TEMPLATES:
        raise conflict("templates_full", f"there are {MOST_TEMPLATES} templates, as many as there may be", "delete one")


def _get(conn: Connection, name: str) -> Template:
    t, key = schema.templates, name.lower()
    if key in BUILT_IN:
        return BUILT_IN[key]
    row = conn.execute(sa.select(t).where(t.c.name_key == key)).first()
    if row is None:
        known = [*BUILT_IN, *conn.execute(sa.select(t.c.name)).scalars()]
        raise unknown("template_unknown", f"there is no template {name!r}", name, known, "shadowmesh template list")
    return _view(row)


def _view(row: Row[Any]) -> Template:
    return Template(
        name=row.name,
        description=row.description,
        settings=TemplateSettings(**row.settings),
        built_in=False,
        created_at=row.created_at,
        created_by=row.created_by,
    )
