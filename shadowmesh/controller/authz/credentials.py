"""What someone showed to say who they are: a session of a password, or an API key; and whether it still stands."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz.permissions import ALL, READING
from shadowmesh.controller.authz.principal import Principal
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.store import schema
from shadowmesh.model.api import Permission
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import is_id


def session_lives(user_id: str, session: str, now: dt.datetime) -> sa.ColumnElement[bool]:
    """A condition: the session has not ended by logging out, a new password, a stolen token or time."""
    s = schema.sessions
    return sa.exists().where(s.c.id == session, s.c.user_id == user_id, s.c.expires_at > now)


def key_lives(now: dt.datetime) -> sa.ColumnElement[bool]:
    """A condition on `api_keys`."""
    k = schema.api_keys
    return sa.and_(k.c.revoked_at.is_(None), sa.or_(k.c.expires_at.is_(None), k.c.expires_at > now))


def key_scopes(listed: Collection[str] | None, *, read_only: bool) -> frozenset[Permission]:
    """What an API key is for, of all that its owner may do; from columns of `api_keys`."""
    scopes = ALL if listed is None else frozenset(p for p in Permission if p in listed)
    return scopes & READING if read_only else scopes


def lacks_second_factor(required: Collection[str]) -> sa.ColumnElement[bool]:
    """A condition on `users`: they have a role of these (`admin`, or one in some network), and no second factor."""
    u, m, f, gu, gr = schema.users, schema.members, schema.second_factors, schema.group_users, schema.group_roles
    has = sa.exists().where(f.c.user_id == u.c.id, f.c.confirmed_at.is_not(None))
    roles = [role for role in required if role != "admin"]
    holds = sa.or_(
        sa.exists().where(m.c.email == u.c.email, m.c.role.in_(roles)),
        sa.exists().where(gu.c.user_id == u.c.id, gr.c.group_id == gu.c.group_id, gr.c.role.in_(roles)),
    )
    needs = sa.or_(holds, u.c.admin) if "admin" in required else holds
    return sa.and_(needs, ~has)


def require_signed_in(conn: Connection, who: Principal, now: dt.datetime) -> None:
    """Before anything that outlives what `who` showed: it can't be taken back until the transaction ends.

    Raises ShadowMeshError(not_signed_in) if it was taken back since the request began.
    """
    if who.user_id is None:
        return  # the controller's own socket
    u, k = schema.users, schema.api_keys
    disabled = conn.execute(sa.select(u.c.disabled).where(u.c.id == who.user_id).with_for_update()).scalar()
    credential = who.credential or ""
    lives = (
        sa.exists().where(k.c.id == credential, key_lives(now))
        if is_id(credential, "key")
        else session_lives(who.user_id, credential, now)
    )
    if disabled is not False or not conn.execute(sa.select(lives)).scalar_one():
        raise not_signed_in()


def not_signed_in() -> ShadowMeshError:
    return not_allowed("not_signed_in", "the token is not valid, or no longer", "sign in with `shadowmesh login`")
