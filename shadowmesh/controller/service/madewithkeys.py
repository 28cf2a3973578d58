"""What was made with an API key ends with it: invites, relay tokens, invitations of people, webhooks and syslog. (Keys too: `service.api_keys`.)"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema


def end_made_with(context: ServiceContext, conn: Connection, keys: Collection[str]) -> dict[str, list[str]]:
    """The ids of what was open and has ended, as the audit log has them."""
    i, t, u, s = schema.invites, schema.relay_tokens, schema.user_invitations, schema.sinks
    now = context.now()
    invites = sa.and_(i.c.made_by.in_(keys), i.c.revoked_at.is_(None), i.c.uses_left > 0, i.c.expires_at > now)
    tokens = sa.and_(t.c.made_by.in_(keys), t.c.uses_left > 0, t.c.expires_at > now)
    invitations = sa.and_(u.c.made_by.in_(keys), u.c.ended_at.is_(None), u.c.expires_at > now)
    ending = {
        "invites_ended": i.update().where(invites).values(revoked_at=now).returning(i.c.id),
        "relay_tokens_ended": t.update().where(tokens).values(uses_left=0).returning(t.c.id),
        "invitations_ended": u.update().where(invitations).values(ended_at=now).returning(u.c.id),
        "sinks_ended": s.delete().where(s.c.made_by.in_(keys)).returning(s.c.id),
    }
    return {name: sorted(conn.execute(statement).scalars()) for name, statement in ending.items()}
