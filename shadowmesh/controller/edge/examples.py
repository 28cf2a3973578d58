"""Examples of answers for the API's description: made from their schemas, so that each has every field that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_Schema = Mapping[str, Any]
_DEEPEST = 8
_KEY = "SGHMy9Kp0cDYVQ4oTvhSKlQfV0S8gSTqhG2vTcYfqQ0="

# what a field of this name holds; with a type before it where several of that name differ
_BY_NAME: dict[str, Any] = {
    "network_id": "net_abc123", "client_id": "cli_xyz789", "peer_id": "cli_abc456", "user_id": "usr_user123", "relay_id": "rly_east1",
    "node_id": "nod_1f2e3d4c", "invite_id": "inv_k3fj92", "remote_peer_id": "cli_abc456", "device": "dev_q7qf",
    "client_ids": "cli_xyz789", "network_name": "acme-prod", "client_name": "server-1", "email": "anna@example.org",
    "user": "anna@example.org", "actor": "anna@example.org", "created_by": "anna@example.org", "owner": "usr_user123",
    "subnet": "10.100.1.0/24", "subnet6": "fd12:3456:789a:1::/64", "ip": "10.100.1.5", "assigned_ip": "10.100.1.5", "epoch": 3,
    "invitation_code": "acmeprod-k3fj-92regen4", "code": "acmeprod-k3fj-92regen4", "invite": "inv_k3fj92", "tags": "web", "public_key": _KEY,
    "device_key": _KEY, "wire_id": _KEY, "description": "Production environment", "region": "eu-north", "version": "0.3.0",
    "latency_ms": 2.1, "nat_type": "port_restricted", "connection_type": "p2p", "status": "online", "state": "approved",
    "public_ip": "203.0.113.45", "public_port": 51820, "address": "203.0.113.45:51820", "endpoints": "203.0.113.45:51820",
    "relay": "relay1", "relay_server": "ws://relay.example.org:9545", "url": "https://vpn.example.org:8443",
    "urls": "https://vpn.example.org:8443", "month": "2026-01", "percent": 42, "max_clients": 100, "clients": 4, "clients_online": 4,
    "reason": "direct.punched", "key": "sk_prod_abc123", "token": "smr1_abc123", "fingerprint": "sha256:" + "0f" * 32,
    "access_token": "eyJhbGciOi…", "refresh_token": "smf_abc123", "password": "KGtef3kSs5NYuCgK", "name": "acme-prod",
    "source": "client", "next": None, "expires_in": 900,
}  # fmt: skip


# what a thing of this kind is called
_CALLED = {
    "Client": "server-1", "Device": "server-1", "Relay": "relay1", "Group": "ops", "User": "Anna Berg", "Plan": "team",
    "Template": "office", "ApiKey": "ci", "NetworkMember": "Anna Berg", "Peer": "server-1", "ControllerNode": "vpn1",
}  # fmt: skip


def add_examples(document: dict[str, Any]) -> None:
    """An `example` for each answer that says something, in place."""
    for _, operation in _operations(document):
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/json")
            if status.startswith("2") and content is not None and content.get("schema"):
                content["example"] = example(content["schema"], document["components"]["schemas"])


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "responses" in operation:
                yield f"{method.upper()} {path}", operation


def example(schema: _Schema, components: Mapping[str, _Schema], name: str = "", deep: int = 0) -> Any:
    """A value of this schema. `name`: of the field that it is."""
    if "$ref" in schema:
        return example(components[schema["$ref"].rpartition("/")[2]], components, name, deep + 1)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            given = [s for s in schema[choice] if s.get("type") != "null"]
            return example(given[0] if given else {"type": "null"}, components, name, deep)
    for fixed in ("const", "enum"):
        if fixed in schema:
            return schema[fixed] if fixed == "const" else schema[fixed][0]
    kind = schema.get("type")
    known = _BY_NAME.get(name, ...)
    if known is not ... and (known is None or _is(known, kind)):
        return known
    if kind == "object":
        if deep >= _DEEPEST:
            return {}
        fields = {key: example(value, components, key, deep + 1) for key, value in schema.get("properties", {}).items()}
        if "name" in fields and schema.get("title") in _CALLED:
            fields["name"] = _CALLED[schema["title"]]
        more = schema.get("additionalProperties")
        return fields | ({"acme-prod": example(more, components, "", deep + 1)} if isinstance(more, Mapping) else {})
    if kind == "array":
        return [] if deep >= _DEEPEST else [example(schema.get("items", {}), components, name, deep + 1)]
    if kind == "string":
        return _text(schema, name)
    if kind in ("integer", "number"):
        least = max(schema.get("minimum", 1), 1)
        return int(least) if kind == "integer" else least
    return schema.get("default", True) if kind == "boolean" else None


def _is(value: Any, kind: str | None) -> bool:
    kinds: dict[str | None, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float)}
    return isinstance(value, kinds.get(kind, ()))


def _text(schema: _Schema, name: str) -> str:
    if schema.get("format") == "date-time":
        return "2026-01-31T12:00:00Z"
    return f"{name or 'text'}"
