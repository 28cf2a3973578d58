"""The address pool against a model of it: lowest free first, freed ones rest, nobody shares."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.pool import StaticPool

from shadowmesh.controller.service import addresspool
from shadowmesh.controller.service.addresspool import PoolEmpty
from shadowmesh.controller.service.limits import Limiter, TooMany
from shadowmesh.controller.service.newcomers import name_of
from shadowmesh.controller.store import schema

SUBNET = ipaddress.IPv4Network("10.0.0.0/28")
REST = dt.timedelta(days=7)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
BASE = int(SUBNET.network_address)


@pytest.fixture(scope="module")
def engine() -> sa.Engine:
    found = sa.create_engine("sqlite://", poolclass=StaticPool)
    schema.metadata.create_all(found)
    return found


def network(conn: sa.Connection) -> Any:
    n = schema.networks
    return conn.execute(sa.select(n).where(n.c.ref == "net_x")).one()


def fresh(conn: sa.Connection) -> None:
    conn.execute(schema.addresses.delete())
    conn.execute(schema.networks.delete())
    conn.execute(
        schema.networks.insert().values(
            ref="net_x", network_id=b"x", owner_id="", name="x", name_key="x", description="", subnet=str(SUBNET), approval=False,
            code_approval=True, max_clients=100, p2p_enabled=True, relay_fallback=True, reports="health", created_at=START, created_by="",
            generation=1, serial=1, lowest_free=0,
        )
    )  # fmt: skip


STEPS = st.lists(
    st.one_of(
        st.just(("claim", 0)),
        st.tuples(st.just("free"), st.integers(0, 13)),
        st.tuples(st.just("want"), st.integers(1, 14)),
        st.tuples(st.just("wait"), st.integers(1, 8)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_pool_gives_what_its_model_gives(engine: sa.Engine, steps: list[tuple[str, int]]) -> None:
    taken: dict[int, str] = {}
    resting: dict[int, dt.datetime] = {}
    now = START
    with engine.connect() as conn:
        fresh(conn)
        for number, (what, value) in enumerate(steps):
            client = f"cli_{number}"
            resting = {ip: until for ip, until in resting.items() if until > now}
            if what == "wait":
                now += dt.timedelta(days=value)
            elif what == "free" and taken:
                ip = sorted(taken)[value % len(taken)]
                del taken[ip]
                resting[ip] = now + REST
                addresspool.free(conn, "net_x", ip, now + REST)
            elif what == "want" and BASE + value not in taken:
                assert addresspool.claim(conn, network(conn), client, BASE + value, now) == BASE + value
                taken[BASE + value] = client
                resting.pop(BASE + value, None)
            elif what == "claim":
                free = [ip for ip in range(BASE + 1, BASE + 15) if ip not in taken and ip not in resting]
                asleep = sorted(resting, key=lambda ip: (resting[ip], ip))
                if not free and not asleep:
                    with pytest.raises(PoolEmpty):
                        addresspool.claim(conn, network(conn), client, None, now)
                    continue
                got = addresspool.claim(conn, network(conn), client, None, now)
                assert got == (free[0] if free else asleep[0])
                taken[got] = client
                resting.pop(got, None)
        conn.rollback()


def test_a_full_large_pool_is_filled_without_gaps(engine: sa.Engine) -> None:
    with engine.connect() as conn:
        fresh(conn)
        conn.execute(schema.networks.update().values(subnet="10.0.0.0/22"))
        got = [addresspool.claim(conn, network(conn), f"cli_{i}", None, START) for i in range(1022)]
        assert got == list(range(BASE + 1, BASE + 1023))
        conn.rollback()


@given(st.text(max_size=300))
def test_any_host_name_makes_a_valid_client_name(hostname: str) -> None:
    from shadowmesh.controller.service.enrolment import _NAME

    assert _NAME.match(name_of(hostname))


def test_a_limiter_lets_a_burst_through_and_then_one_at_a_time() -> None:
    limiter = Limiter(3, 10.0)
    for _ in range(3):
        limiter.take("a", 100.0)
    with pytest.raises(TooMany) as caught:
        limiter.take("a", 101.0)
    assert caught.value.retry_after == 9
    limiter.take("b", 101.0)
    limiter.take("a", 110.0)
    with pytest.raises(TooMany):
        limiter.take("a", 110.0)
