"""The shapes of the REST API that are about what clients use, and how much they may. Bytes are those of inner IP packets."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from shadowmesh.model.api import Answer, NetworkName, Request

UsageUnit = Literal["month", "day", "hour"]
PlanName = NetworkName
Month = Annotated[str, StringConstraints(pattern=r"^[12][0-9]{3}-(0[1-9]|1[0-2])$")]
_Bytes = Annotated[int, Field(strict=True, ge=1, le=2**53)]
_Kbit = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
_Clients = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_RATES = {"kbit": 1, "mbit": 1000, "gbit": 1_000_000}


def bytes_of(text: str) -> int:
    """Of `500MB`, `1.5 TB`, `10`. Raises ValueError with the rest of a sentence."""
    found = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,3}))? ?([kmgtp]?)b?", text.strip().lower())
    if found is None:
        raise ValueError("is no size: write it as 500MB, 10GB or 2TB")
    return int(float(f"{found[1]}.{found[2] or 0}") * _SIZES[found[3]])


def kbit_of(text: str) -> int:
    """kbit/s of `64kbit`, `10mbit`. Raises ValueError with the rest of a sentence."""
    found = re.fullmatch(r"([0-9]{1,9}) ?(kbit|mbit|gbit)", text.strip().lower())
    if found is None:
        raise ValueError("is no rate: write it as 64kbit or 10mbit")
    return int(found[1]) * _RATES[found[2]]


class UsageRow(Answer):
    """What one client used. Relayed bytes as relays counted them, direct ones as those who got them say."""

    network_id: str
    network: str
    client_id: str
    client: str
    user: str | None = None  # whose machine it is, as who asks may know
    since: datetime  # the beginning of the month, day or hour
    relayed_sent: int
    relayed_received: int
    direct_sent: int
    direct_received: int


class PlanPut(Request):
    """What is left out has no limit. `relay_kbit`: what each client may send through a relay; `network_relay_kbit`: what all
    of a network may together; `over_quota_kbit`: what each client may once the month's bytes are used up."""

    max_clients: _Clients | None = None
    monthly_bytes: _Bytes | None = None
    relay_kbit: _Kbit | None = None
    network_relay_kbit: _Kbit | None = None
    over_quota_kbit: _Kbit = 64


class Plan(PlanPut):
    name: str
    networks: int = 0  # how many have it


class NetworkPlanPut(Request):
    plan: PlanName | None  # None: no plan, no limits


class Quota(Answer):
    """How a network stands. `used`: each byte that came to a client of it this month, relayed or direct, once."""

    network_id: str
    network: str
    month: str  # YYYY-MM, UTC
    used: int
    plan: str | None = None
    monthly_bytes: int | None = None
    percent: int | None = None
    over: bool = False
    clients: int
    max_clients: int
