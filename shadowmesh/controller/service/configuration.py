"""What `controller.json` says and others go by, noted in the database: so that a change of it has its audit entry."""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.store import schema

_KEY = "settings"


def note_settings(core: Core, conn: Connection) -> None:
    """At init and at each start: records what is set differently since the last time."""
    t, settings = schema.meta, core.settings
    new = {"public_urls": list(settings.public_urls), "stun": [str(a) for a in settings.stun_addresses()]}
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
        core,
        conn,
        SYSTEM,
        "controller.settings",
        core.keys.identity.public.fingerprint,
        before={name: old.get(name) for name in changed},
        after={name: new[name] for name in changed},
    )
