"""The part of the REST API that is about how clients are connected: the log of it, and the topology."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from shadowmesh.controller.edge.access import At, Limit
from shadowmesh.controller.edge.needs import MayReadLogs, MayViewAndReadLogs
from shadowmesh.controller.edge.routing import MomentQuery, Name, Number, router
from shadowmesh.controller.service.connectionviews import LogWish
from shadowmesh.model import api
from shadowmesh.model.connectivity import ConnectionEvent, ConnectionLog, ControllerEvent, LogSource, Topology

ClientQuery = Annotated[str | None, Query(max_length=100, pattern=r"^[\x21-\x7e]+$")]


@router.get("/networks/{network}/logs", tags=["logs"])
async def list_logs(
    at: At,
    who: MayReadLogs,
    network: Name,
    client: ClientQuery = None,
    peer: ClientQuery = None,
    since: MomentQuery = None,
    until: MomentQuery = None,
    event_type: Annotated[ConnectionEvent | ControllerEvent | None, Query(alias="type")] = None,
    source: Annotated[LogSource | None, Query()] = None,
    cursor: Number = None,
    limit: Limit = 100,
) -> api.Page[ConnectionLog]:
    """What happened in the network, oldest first: how clients are connected, as they tell, and what the controller and its
    relays did. `client`: of it; `peer`: about it, as others told; with both, as either told.

    A member of the network sees the lines of their own machines. To follow, go on at the number of the last line.
    """
    wish = LogWish(client, peer, since, until, event_type, source)
    return await at.connections.log(who, network, wish, int(cursor or 0), limit)


@router.get("/networks/{network}/topology", tags=["logs"])
async def topology(at: At, who: MayViewAndReadLogs, network: Name, client: ClientQuery = None) -> Topology:
    """Controllers, relays, clients, and the pairs that are in use, as both sides see them: pairs for who may read logs. `client`:
    its pairs, and who is in these, alone."""
    return await at.connections.topology(who, network, client)
