"""Requests made from an OpenAPI document: nearly right ones, and what a fuzzer would send instead."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

Json = Any

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, 1e308, 5e-324])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["\0", "\ud800", "\x1b[2J", "\u202e", "x" * 5000, "net_x", "../..", "%00", "', --", "0.0.0.0/0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "", "\xff"]
)  # fmt: skip
ODD_HEADERS = st.dictionaries(
    st.sampled_from(["Origin", "Idempotency-Key", "Accept", "Content-Encoding", "Expect", "Range", "If-Match", "Cookie", "Host"]),
    st.sampled_from(["http://[", "null", "x" * 300, "\xe9", "gzip", "bytes=9-1", "a=b;;;", "[", ":", "http://x:99999999"]),
    max_size=2,
)  # fmt: skip
DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
BODIES = st.sampled_from(
    [DEEP, b"[" * 50_000, b"\xff\xfe", b'{"name": 1e999}', b'{"uses": ' + b"9" * 5000 + b"}", b'"' + b"\\ud800" + b'"']
)


def operations(document: Json) -> list[tuple[str, str, Json]]:
    return [(method.upper(), path, found) for path, item in document["paths"].items() for method, found in item.items()]


def value_of(schema: Json, document: Json) -> st.SearchStrategy[Json]:
    """Values that the schema allows, as far as types go, and sometimes others."""
    return st.one_of(_fitting(schema, document), _fitting(schema, document), JUNK)


def _fitting(schema: Json, document: Json) -> st.SearchStrategy[Json]:
    if "$ref" in schema:
        return _fitting(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "anyOf" in schema:
        return st.one_of([_fitting(s, document) for s in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "object":
            known = schema.get("properties", {})
            fields = {name: value_of(s, document) for name, s in known.items()}
            wanted = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
            return st.fixed_dictionaries(wanted, optional=fields)
        case "array":
            return st.lists(value_of(schema.get("items", {}), document), max_size=4)
        case "integer" | "number":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"])
        case "string":
            return st.text(max_size=40)
    return JUNK


@st.composite
def requests(draw: st.DrawFn, document: Json, known: dict[str, list[str]]) -> dict[str, Any]:
    """What httpx's `request` takes, and the statuses that are described (none for a made-up method). `known`: names that exist, for parameters of a path."""
    method, path, operation = draw(st.sampled_from(operations(document)))
    query: dict[str, str] = {}
    for parameter in operation.get("parameters", ()):
        name, place = parameter["name"], parameter["in"]
        if place == "path":
            names = st.sampled_from(
                [
                    *known.get(name, ["office"]),
                    "%00",
                    "%ff",
                    "..%2f",
                    "x" * 3000,
                    "%0d%0aX:%20y",
                    "net_nobody",
                    "%E2%80%AE",
                ]
            )
            path = path.replace("{" + name + "}", draw(names))
        elif place == "query" and draw(st.booleans()):
            query[name] = str(draw(value_of(parameter.get("schema", {}), document)))[:3000]
    content = b""
    body = operation.get("requestBody", {}).get("content", {})
    if body and draw(st.integers(0, 9)):
        schema = next(iter(body.values())).get("schema", {})
        value = draw(value_of(schema, document))
        content = json.dumps(value).encode()
    elif draw(st.booleans()):
        content = draw(BODIES | st.binary(max_size=50))
    headers = {"Content-Type": draw(KINDS)} | draw(ODD_HEADERS)
    answers = set(operation["responses"])
    if draw(st.integers(0, 19)) == 0:
        answers = set()
        method = draw(st.sampled_from(["TRACE", "PROPFIND", "get", "OPTIONS", "HEAD", "X" * 50]))
    encoded = {name.encode(): value.encode("latin-1", "replace") for name, value in headers.items()}
    safe = {name: value.encode("utf-8", "surrogatepass") for name, value in query.items()}
    return {"method": method, "path": path, "query": safe, "content": content, "headers": encoded, "answers": answers}
