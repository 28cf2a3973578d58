"""Who needs a second factor, by role: what `controller.json` asks for, and what administrators set beside it, live on every node."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Principal, lacks_second_factor, require_admin
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts

_KEY = "mfa_required"
_ORDER: tuple[accounts.MfaRole, ...] = ("admin", "owner", "member", "guest")


def required_roles(context: ServiceContext, conn: Connection) -> Sequence[accounts.MfaRole]:
    """The roles that ask for a second factor now."""
    return _in_order({*context.settings.authentication.mfa_required, *_set(conn)})


class SignInPolicy:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers

    async def show(self, who: Principal) -> accounts.ControllerSettings:
        require_admin(who)
        return await self._context.read(self._view)

    async def set(self, who: Principal, wish: accounts.ControllerSettingsPatch) -> accounts.ControllerSettings:
        """What the file asks for stays. Open connections of who lacks a second factor from now on end."""
        require_admin(who)

        def tx(conn: Connection) -> tuple[accounts.ControllerSettings, Sequence[str]]:
            t, u, before = schema.meta, schema.users, _set(conn, lock=True)
            after = before if wish.mfa_required is None else _in_order(wish.mfa_required)
            if after == before:
                return self._view(conn), ()
            if conn.execute(t.update().where(t.c.key == _KEY).values(value=json.dumps(after))).rowcount == 0:
                conn.execute(t.insert().values(key=_KEY, value=json.dumps(after)))
            lacking = sa.select(u.c.id).where(lacks_second_factor(required_roles(self._context, conn))).order_by(u.c.id)
            users = [str(user) for user in conn.execute(lacking).scalars()]
            for user in users:
                rights_changed(self._context, conn, user)
            more = {"before": {_KEY: before}, "after": {_KEY: after}}
            record(self._context, conn, who, "controller.set", _KEY, **more)
            return self._view(conn), users

        answer, users = await self._context.write(tx)
        for user in users:
            self._watchers.changed(user)
        return answer

    def _view(self, conn: Connection) -> accounts.ControllerSettings:
        required, u = required_roles(self._context, conn), schema.users
        lacking = sa.select(u.c.email).where(
            lacks_second_factor(required), u.c.disabled.is_(False), u.c.kind == "person"
        )
        return accounts.ControllerSettings(
            mfa_required=list(required),
            mfa_required_by_file=_in_order(self._context.settings.authentication.mfa_required),
            mfa_missing=list(conn.execute(lacking.order_by(u.c.email)).scalars()) if required else [],
        )


def _set(conn: Connection, *, lock: bool = False) -> list[accounts.MfaRole]:
    """What administrators have set. Others who set it at once wait, where it is there already."""
    t = schema.meta
    query = sa.select(t.c.value).where(t.c.key == _KEY)
    kept = conn.execute(query.with_for_update() if lock else query).scalar()
    return [] if kept is None else _in_order(json.loads(kept))


def _in_order(roles: object) -> list[accounts.MfaRole]:
    return [role for role in _ORDER if role in roles]  # type: ignore[operator]
