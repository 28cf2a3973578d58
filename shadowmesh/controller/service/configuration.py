"""What `controller.json` says and others go by, noted in the database: so that a change of it has its audit entry."""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema

_KEY = "settings"


def note_settings(context: ServiceContext, conn: Connection) -> None:
    """At init and at each start: records what is set differently since the last time."""
    t, settings = schema.meta, context.settings
    new = {
        "public_urls": list(settings.public_urls),
        "stun": [str(a) for a in settings.stun_addresses()],
        "mfa_required": list(settings.authentication.mfa_required),
        "log_retention_days": settings.log_retention_days,
        "mode": settings.mode,
        "max_networks_per_user": settings.max_networks_per_user,
        "session_timeout": settings.session_timeout,
        "default_subnet": settings.default_subnet,
        "relay_enabled": settings.relay_enabled,
        "fallback_relay": settings.fallback_relay,
        "p2p_enabled": settings.p2p_enabled,
        "stun_servers": list(settings.stun_servers),
        "webhook_networks": list(settings.webhook_networks),
    }
    kept = conn.execute(sa.select(t.c.value).where(t.c.key == _KEY)).scalar()
    old = {} if kept is None else json.loads(kept)
    if new == old:
        return
    if kept is None:
        conn.execute(t.insert().values(key=_KEY, value=json.dumps(new)))
    else:
        conn.execute(t.update().where(t.c.key == _KEY).values(value=json.dumps(new)))
    changed = [name for name in new if new[name] != old.get(name)]
    record(
        context,
        conn,
        SYSTEM,
        "controller.settings",
        context.keys.identity.public.fingerprint,
        before={name: old.get(name) for name in changed},
        after={name: new[name] for name in changed},
    )
