"""What the controller asks its database: statements are built once, and none reads all clients of a network to find one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import SqliteStore
from shadowmesh.controller.store.prepared import prepared

if TYPE_CHECKING:
    from tests.controller.conftest import World

BUILT: list[object] = []


@prepared
def _value(key: str, other: str) -> sa.Select[Any]:
    BUILT.append((key, other))
    m = schema.meta
    return sa.select(m.c.value).where(sa.or_(m.c.key == key, m.c.key == other)).order_by(m.c.value)


def test_a_prepared_statement_is_built_once_and_takes_other_values() -> None:
    engine = sa.create_engine("sqlite://")
    schema.meta.create(engine)
    with engine.begin() as conn:
        conn.execute(schema.meta.insert(), [{"key": k, "value": k.upper()} for k in "abcd"])
        assert conn.execute(*_value("a", "c")).scalars().all() == ["A", "C"]
        assert conn.execute(*_value("d", "x")).scalars().all() == ["D"]
    assert len(BUILT) == 1
    with pytest.raises(ValueError, match="zip"):
        _value("a")  # type: ignore[call-arg]


async def test_no_statement_of_a_join_a_hello_a_change_or_a_removal_reads_all_clients(world: World) -> None:
    await world.network()
    await world.member(name="first")  # makes the map
    seen: list[tuple[str, Any]] = []
    store = world.at.context.store
    assert isinstance(store, SqliteStore)
    for engine in (store.engine, store._reader):
        sa.event.listen(
            engine, "before_cursor_execute", lambda _conn, _cursor, sql, values, *_: seen.append((sql, values))
        )
    invite = (await world.invite()).invite
    seen.clear()
    device = world.device()
    answer = await device.join(invite, hostname="laptop")
    await (await device.connect()).settled()
    await world.call("client_set", "office", "first", name="renamed")
    await world.call("client_remove", "office", answer.client_id)
    told = [(sql, values) for sql, values in seen if "clients" in sql and sql.startswith(("SELECT", "UPDATE"))]
    plans = set()
    with store.engine.connect() as conn:
        for sql, values in told:
            for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values):
                plans.add((row.detail, sql))
    assert any("clients_device (network_ref=? AND device_key=?)" in plan for plan, _ in plans), (
        "the newcomer was looked for"
    )
    all_of_them = ("SCAN clients", "SCAN c", "clients_changed (network_ref=?)", "clients_name (network_ref=?)")
    assert [sql for plan, sql in plans if plan.endswith(all_of_them) and "count(" not in sql] == []
