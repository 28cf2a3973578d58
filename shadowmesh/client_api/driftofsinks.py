"""Webhooks and syslog receivers, from what a file says and what a controller has to the changes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from shadowmesh.client_api.desiredsinks import DesiredSink
from shadowmesh.client_api.desiredstate import DesiredState, FoundState
from shadowmesh.client_api.drift import Drift, named, words
from shadowmesh.model import api
from shadowmesh.model.receivers import (
    Sink,
    SinkCompared,
    SyslogCreate,
    SyslogPatch,
    WebhookCreate,
    WebhookPatch,
    digest_of,
    place_of,
)

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient


def sink_drift(desired: DesiredState, found: FoundState, *, prune: bool) -> Iterator[Drift]:
    if desired.webhooks is not None:
        there = found.webhooks.get(None, {})
        yield from _of_kind(desired, found, "webhook", ("webhooks",), desired.webhooks, there, None, prune=prune)
    if desired.syslog is not None:
        yield from _of_kind(desired, found, "syslog", ("syslog",), desired.syslog, found.syslog, None, prune=prune)
    for name, wish in (desired.networks or {}).items():
        if wish.webhooks is not None:
            network: api.Network | None = named(found.networks, name)
            there = {} if network is None else found.webhooks.get(network.network_id, {})
            path = ("networks", name, "webhooks")
            yield from _of_kind(desired, found, "webhook", path, wish.webhooks, there, name, prune=prune)


def _of_kind(
    desired: DesiredState,
    found: FoundState,
    kind: Literal["webhook", "syslog"],
    path: tuple[str, ...],
    wishes: Mapping[str, DesiredSink],
    there: Mapping[str, Sink],
    of: str | None,
    *,
    prune: bool,
) -> Iterator[Drift]:
    for name, wish in wishes.items():
        old: Sink | None = named(there, name)
        if old is None:
            for field_name, said in (("url", wish.url), ("secret", wish.secret if kind == "webhook" else "")):
                if said is None and not desired.document.has(*path, name, field_name):
                    with desired.document.going_on():
                        what = f"there is no {kind} {name} yet, and its {field_name} isn't said"
                        raise desired.document.bad((*path, name), what, f"write {field_name}: {{file: PATH}}")
            if wish.url is not None:
                fields = {"url": (None, _hidden(wish.url)), "stream": (None, wish.stream)}
                fields |= {"events": (None, ", ".join(wish.events))} if wish.events else {}
                yield Drift("create", kind, name, of, fields, _sink_made(kind, name, wish, of))
            continue
        if old.stream != wish.stream:
            with desired.document.going_on():
                what = f"the stream of {name} is {old.stream}, and stays"
                raise desired.document.bad((*path, name, "stream"), what, "write that one, or choose another name")
        fields = _sink_fields(kind, wish, old, found.compared.get(old.id))
        if fields:
            yield Drift("set", kind, old.name, of, fields, _sink_set(kind, old.id, wish, frozenset(fields)))
    if prune:
        for name, old in there.items():
            if named(wishes, name, ...) is ...:
                yield Drift("delete", kind, name, of, {"url": (old.url, None)}, _sink_gone(kind, old.id))


def _sink_fields(
    kind: Literal["webhook", "syslog"], wish: DesiredSink, old: Sink, compared: SinkCompared | None
) -> dict[str, tuple[Any, Any]]:
    """What is another, and of what is secret that it is."""
    fields: dict[str, tuple[Any, Any]] = {}
    if wish.url is not None:
        same = place_of(wish.url) == old.url if kind == "syslog" else compared is not None and compared.url
        if not same:
            place = place_of(wish.url)
            fields["url"] = (old.url, place if place != old.url else f"{place}/… (another)")
    if wish.secret is not None and not (compared is not None and compared.secret):
        fields["secret"] = ("…", "… (another)")
    if wish.events is not None and set(wish.events) != set(old.events):
        fields["events"] = (words(old.events), words(wish.events))
    if wish.ca is not None and digest_of(wish.ca or None) != old.ca_digest:
        fields["ca"] = (old.ca_digest, digest_of(wish.ca or None))
    return fields


def _hidden(url: str) -> str:
    place = place_of(url)
    return place if url.rstrip("/") == place else f"{place}/…"


def _sink_made(kind: str, name: str, wish: DesiredSink, of: str | None) -> Callable[[ControllerClient], object]:
    def do(controller: ControllerClient) -> object:
        more: dict[str, Any] = {"url": wish.url, "name": name, "stream": wish.stream, "ca": wish.ca or None}
        more["backlog"] = wish.backlog
        if kind == "syslog":
            return controller.syslog_create(SyslogCreate(**more))
        return controller.webhook_create(WebhookCreate(secret=wish.secret, events=list(wish.events or ()), **more), of)

    return do


def _sink_set(kind: str, sink: str, wish: DesiredSink, fields: frozenset[str]) -> Callable[[ControllerClient], object]:
    def do(controller: ControllerClient) -> object:
        said: dict[str, Any] = {name: getattr(wish, name) for name in fields}
        if kind == "syslog":
            return controller.syslog_set(sink, SyslogPatch(**said))
        return controller.webhook_set(sink, WebhookPatch(**said))

    return do


def _sink_gone(kind: str, sink: str) -> Callable[[ControllerClient], object]:
    return lambda controller: controller.syslog_delete(sink) if kind == "syslog" else controller.webhook_delete(sink)


def look_at_sinks(
    controller: ControllerClient, desired: DesiredState | None, networks: Mapping[str, api.Network]
) -> tuple[dict[str | None, dict[str, Sink]], dict[str, Sink], dict[str, SinkCompared]]:
    """Webhooks by network and name, syslog receivers by name, and of the webhooks whether they are as the file says."""
    wishes: dict[str | None, Mapping[str, DesiredSink]] = {}
    if desired is not None:
        if desired.webhooks is not None:
            wishes[None] = desired.webhooks
        for name, wish in (desired.networks or {}).items():
            network: api.Network | None = named(networks, name)
            if wish.webhooks is not None and network is not None:
                wishes[network.network_id] = wish.webhooks
    webhooks: dict[str | None, dict[str, Sink]] = {}
    for sink in controller.webhook_list() if desired is None or wishes else ():
        webhooks.setdefault(sink.network_id, {})[sink.name or sink.id] = sink
    compared: dict[str, SinkCompared] = {}
    for of, wanted in wishes.items():
        for name, hook in wanted.items():
            old: Sink | None = named(webhooks.get(of, {}), name)
            if old is not None and (hook.url is not None or hook.secret is not None):
                compared[old.id] = controller.webhook_compare(old.id, hook.url, hook.secret)
    syslog = controller.syslog_list() if desired is None or desired.syslog is not None else []
    return webhooks, {sink.name or sink.id: sink for sink in syslog}, compared
