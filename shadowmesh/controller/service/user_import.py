"""Users who come from another system with their password hashes: all of a list, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Permission, Principal, find_network, require_admin
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.members import set_role
from shadowmesh.controller.service.users import add_user, find_user, user_view
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import Kind, ShadowMeshError


class UserImport:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def run(self, who: Principal, wish: accounts.UserImport) -> accounts.UserImported:
        """Raises ShadowMeshError(import_refused) with a line for each entry that can't be taken."""
        require_admin(who)

        def tx(conn: Connection) -> accounts.UserImported:
            faults = list(_faults(conn, who, wish.users))
            if faults:
                raise ShadowMeshError(
                    "import_refused",
                    faults[0] if len(faults) == 1 else f"{len(faults)} entries can't be imported",
                    "nobody was imported; correct it and try again",
                    kind=Kind.CONFLICT,
                    details=faults,
                )
            return accounts.UserImported(users=[self._add(conn, who, entry) for entry in wish.users])

        return await self._context.write(tx)

    def _add(self, conn: Connection, who: Principal, entry: accounts.ImportedUser) -> accounts.User:
        user_id = add_user(
            self._context,
            conn,
            who,
            entry.email,
            name=entry.name,
            admin=entry.role == "admin",
            password_hash=entry.password_hash,
        )
        if entry.network is not None and entry.network_role is not None:
            network = find_network(conn, who, entry.network, Permission.NETWORK_CONFIGURE, lock=True)
            before, after = set_role(conn, network, entry.email, entry.network_role)
            more = {"before": before, "after": after}
            record(self._context, conn, who, "member.set", entry.email, id=user_id, network=network.name, **more)
        return user_view(find_user(conn, user_id))


def _faults(conn: Connection, who: Principal, entries: Sequence[accounts.ImportedUser]) -> Iterator[str]:
    """What the database has against these, each with the number of its entry."""
    u = schema.users
    taken = set(conn.execute(sa.select(u.c.email)).scalars())
    for number, entry in enumerate(entries, 1):
        if entry.email in taken:
            yield f"entry {number}: there is a user {entry.email} already, or twice in the list"
        taken.add(entry.email)
        if entry.network is not None:
            try:
                find_network(conn, who, entry.network, Permission.NETWORK_CONFIGURE)
            except ShadowMeshError as e:
                yield f"entry {number}: {e.what}"
