"""Idempotency-Key: a request that is sent again, because its answer was lost, is answered again and not done again."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model.keys import Secret

M = TypeVar("M", bound=BaseModel)

ANSWER_LIFE = dt.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """The first answer is kept, encrypted, in the transaction that made it, and given again."""

    key: str
    digest: str

    @classmethod
    def of(cls, key: str | None, route: str, body: BaseModel) -> IdempotentRequest | None:
        """None without a key."""
        if key is None:
            return None
        return cls(key, hashlib.sha256(route.encode() + b"\0" + body.model_dump_json().encode()).hexdigest())

    def found(self, context: ServiceContext, conn: Connection, who: Principal, kind: type[M]) -> M | None:
        """The earlier answer. Raises ShadowMeshError(CONFLICT) if the key was used for another request."""
        t, actor = schema.answers, _actor(who)
        row = conn.execute(sa.select(t).where(t.c.actor == actor, t.c.key == self.key)).first()
        if row is None:
            return None
        if row.digest != self.digest:
            raise conflict(
                "idempotency_key_reused", "this Idempotency-Key was used for another request", "use a new one"
            )
        return kind.model_validate_json(context.keys.vault.decrypt(row.sealed, f"answer {actor}").reveal())

    def keep(self, context: ServiceContext, conn: Connection, who: Principal, answer: BaseModel) -> None:
        actor = _actor(who)
        sealed = context.keys.vault.encrypt(Secret(answer.model_dump_json().encode()), f"answer {actor}")
        conn.execute(
            schema.answers.insert().values(
                actor=actor, key=self.key, digest=self.digest, sealed=sealed, at=context.now()
            )
        )


def _actor(who: Principal) -> str:
    """Whose answers these are: a person's whatever their session, and each API key's own, as it may be for less.

    Never a name: people give their keys what names they like.
    """
    return who.key or who.user_id or who.name
