"""Traces: which spans a collector gets, how they hang together, and that nothing of what was asked is in them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freeport import free_port
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from people import web

from shadowmesh.controller import process
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    pass


class Collector:
    """A receiver of OTLP by HTTP. `raw`: what came."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                outer.raw.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def spans(self) -> list[Any]:
        found = []
        for raw in self.raw:
            for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.stop()


async def test_each_request_is_a_span_with_its_transactions_and_nothing_that_was_asked(
    data_dir: Path, serve: Callable[..., Any], collector: Collector
) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serve(data_dir, free_port(), traces_to=collector.url) as world:
        made = await world.network("very-secret-name")
        async with web(world) as client:
            client.headers["Authorization"] = f"Bearer {world.first.api_key}"
            path = f"/api/v1/networks/{made.network_id}/invites"
            invite = (await client.post(path, json={}, headers={"traceparent": caller})).json()
            assert (await client.get("/api/v1/networks/unheard-of?cursor=whatever")).status_code == 404
    spans = {span.name: span for span in collector.spans}  # what waited was sent as it stopped
    posted = spans["POST /api/v1/networks/{network}/invites"]
    assert posted.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert posted.parent_span_id.hex() == "b7ad6b7169203331"
    said = {a.key: a.value.string_value or a.value.int_value for a in posted.attributes}
    assert said == {
        "http.request.method": "POST",
        "http.route": "/api/v1/networks/{network}/invites",
        "http.response.status_code": 201,
    }
    below = [span.name for span in collector.spans if span.parent_span_id == posted.span_id]
    assert "database write" in below and set(below) <= {"database read", "database write"}
    assert {a.key: a.value.int_value for a in spans["GET /api/v1/networks/{network}"].attributes}[
        "http.response.status_code"
    ] == 404
    everything = b"".join(collector.raw)
    for secret in (
        "very-secret-name",
        made.network_id,
        invite["invite"],
        invite["code"],
        world.first.api_key,
        "whatever",
    ):
        assert secret.encode() not in everything


async def test_a_collector_that_is_away_holds_nobody_up(data_dir: Path, serve: Callable[..., Any]) -> None:
    async with asyncio.timeout(20):
        async with serve(data_dir, free_port(), traces_to="http://127.0.0.1:9") as world:
            for number in range(5):
                await world.network(f"n{number}", f"10.50.{number}.0/24")


def test_without_the_packages_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shadowmesh.controller.edge.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ShadowMeshError, match="traces are asked for") as refused:
        process._tracing("http://127.0.0.1:4318")
    assert "shadowmesh[telemetry]" in refused.value.remedy
