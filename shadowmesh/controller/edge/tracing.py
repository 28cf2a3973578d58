"""Traces of requests for OpenTelemetry (https://opentelemetry.io), where the operator has a collector and asks for them.

A span for each REST request and, below it, for each transaction. They hold method, route (as the API's description has it, with
the names of parameters and none of their values), status and times: nothing of what is asked, of whom, or by whom. A trace
that a caller has begun (W3C `traceparent`) is gone on with. Links and relays' links, which stay for days, have none.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh import __version__


class Tracing:
    """`endpoint`: a collector that takes OTLP by HTTP, as http://127.0.0.1:4318. While it is away spans are dropped, a bounded
    number of them waiting."""

    def __init__(self, endpoint: str) -> None:
        about = {"service.name": "shadowmesh-controller", "service.version": __version__}
        self._provider = TracerProvider(resource=Resource.create(about))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("shadowmesh")

    def span(self, name: str) -> AbstractContextManager[object]:
        """Below the request's that is under way."""
        return self._tracer.start_as_current_span(name)

    def requests(self, app: ASGIApp) -> ASGIApp:
        """The same application, with a span for each of its requests."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            method = scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 10 else "OTHER"
            caller = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k == b"traceparent"}
            context = TraceContextTextMapPropagator().extract(caller)
            kind = SpanKind.SERVER
            with self._tracer.start_as_current_span(method, context, kind, record_exception=False) as span:

                async def noting(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            span.set_status(StatusCode.ERROR)
                    await send(message)

                span.set_attribute("http.request.method", method)
                try:
                    await app(scope, receive, noting)
                finally:
                    route = getattr(scope.get("route"), "path", None)
                    if route is not None:
                        span.update_name(f"{method} {route}")
                        span.set_attribute("http.route", route)

        return traced

    def close(self) -> None:
        """Sends what waits, for some seconds at most."""
        self._provider.shutdown()
