"""The API's description has an example for each answer: one that is of the answer's own shape, with all its fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from shadowmesh.controller.edge import application
from shadowmesh.controller.edge.examples import example
from shadowmesh.controller.edge.routing import router

ROUTES = [r for r in router.routes if isinstance(r, APIRoute) and r.response_model is not None and r.status_code != 204]


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    document = json.loads(application.described())
    found = document["paths"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{min(r.methods)} {r.path_format}")
def test_each_answer_has_an_example_of_its_own_shape(paths: dict[str, Any], route: APIRoute) -> None:
    (method,) = route.methods
    answer = paths[route.path_format][method.lower()]["responses"][str(route.status_code or 200)]
    shown = answer["content"]["application/json"]["example"]
    assert shown not in ({}, [], None)
    TypeAdapter(route.response_model).validate_json(json.dumps(shown))


def test_the_names_of_fields_say_what_is_in_them(paths: dict[str, Any]) -> None:
    (network, *_) = paths["/api/v1/networks"]["get"]["responses"]["200"]["content"]["application/json"]["example"][
        "networks"
    ]
    (client,) = paths["/api/v1/networks/{network}/clients"]["get"]["responses"]["200"]["content"]["application/json"][
        "example"
    ]["clients"]
    assert (client["name"], client["invite"], client["tags"]) == ("server-1", "inv_k3fj92", ["web"])
    assert (network["network_id"], network["name"], network["subnet"]) == ("net_abc123", "acme-prod", "10.100.1.0/24")


def test_a_schema_that_holds_itself_has_an_end() -> None:
    tree = {
        "type": "object",
        "properties": {"below": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}},
    }
    assert json.dumps(example({"$ref": "#/components/schemas/Tree"}, {"Tree": tree})).count("below") < 10
