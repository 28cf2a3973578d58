"""`shadowmesh access …`, `group …` and `member set-role --permissions`, against a real controller on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clikit import Controller

USAGE, NOT_FOUND, CONFLICT = 2, 5, 6
ANN = "ann@rights.example"


def test_a_group_is_made_given_a_role_and_deleted(controller: Controller) -> None:
    controller("network", "create", "rights")
    controller("user", "add", ANN)
    made = controller("group", "create", "ops", "--description", "on call", "--json").document("group/1")
    assert controller("group", "add", "ops", ANN, "--json").document("group/1")["users"] == [ANN]
    controller("group", "set-role", "ops", "rights", "--permissions", "network.view, logs.view")
    (role,) = controller("group", "show", made["id"], "--json").document("group/1")["networks"]
    assert (role["network_name"], role["role"], role["permissions"]) == (
        "rights",
        "member",
        ["logs.view", "network.view"],
    )
    assert "member of rights (logs.view, network.view)" in controller("group", "list").out
    (member,) = controller("member", "list", "rights", "--json").document("members/1")["members"]
    assert (member["own"], member["groups"]) == (False, ["ops"])
    controller("group", "set-role", "ops", "rights", "--role", "king").refused(USAGE, "owner, member and guest")
    controller("group", "add", "ops", "none@rights.example").refused(NOT_FOUND, "user list")
    controller("group", "create", "Ops").refused(CONFLICT, "there is a group ops already")
    controller("group", "set", "ops").refused(USAGE, "nothing to change")
    changed = controller("group", "set", "ops", "--description", "by day", "--rename", "OPS", "--json")
    assert changed.document("group/1") | {"created_at": ""} == made | {
        "name": "OPS", "description": "by day", "users": [ANN], "networks": [role], "created_at": ""
    }  # fmt: skip
    assert controller("group", "set", "OPS", "--rename", "ops").out == "OPS: is ops now\n"
    controller("group", "delete", "ops").refused(USAGE, "1 users lose: member of rights")
    controller("group", "delete", "ops", "--yes", "--json").document("group-deleted/1")
    controller("group", "show", "ops").refused(NOT_FOUND, "group list")


def test_a_policy_document_is_read_changed_and_set(controller: Controller, tmp_path: Path) -> None:
    controller("network", "create", "policies")
    controller("user", "add", "ben@rights.example")
    ben = ("ben@rights.example",)
    controller("member", "set-role", "policies", *ben, "--permissions", "network.view,client.remove")
    document = json.loads(controller("access", "policy", *ben).out)
    assert document["networks"] == {"policies": {"role": "member", "permissions": ["client.remove", "network.view"]}}
    said = controller("access", "explain", *ben, "policies", "--json").document("access/1")["permissions"]
    assert [p["permission"] for p in said if p["allowed"]] == ["network.view", "client.remove"]
    told = controller("access", "explain", *ben, "policies").out
    assert "ben@rights.example in policies: member, by a list of permissions" in told
    document["networks"]["policies"]["permissions"] = None
    file = tmp_path / "ben.json"
    file.write_text(json.dumps(document))
    assert "member of policies" in controller("access", "set-policy", *ben, file).out
    printed = controller("access", "policy", *ben, "--json").out
    assert controller("access", "set-policy", *ben, "-", "--json", stdin=printed).document("policy-document/1")
    for text, why in (
        ("{", "is no JSON"),
        ('{"networks": {"policies": {"role": "king"}}}', "networks.policies.role"),
        ('{"networks": {"policies": {"role": "guest", "permissions": ["network.create"]}}}', "is of no network"),
        ('{"network": {}}', "networks: field required"),
    ):
        file.write_text(text)
        controller("access", "set-policy", *ben, file).refused(USAGE, why)
    controller("access", "set-policy", *ben, tmp_path / "none").refused(USAGE, "can't be read")
    controller("member", "set-role", "policies", *ben, "--permissions", "network.look").refused(USAGE, "logs.view")


def test_a_device_without_a_daemon_is_registered_let_in_and_configured(controller: Controller) -> None:
    controller("network", "create", "cameras")
    key = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    made = controller("client", "register", "cameras", "porch", "--public-key", key, "--json")
    ip = made.document("client-registered/1")["assigned_ip"]
    controller("client", "approve", "cameras", "porch").refused(CONFLICT, "--plain-wireguard")
    assert controller("client", "approve", "cameras", "porch", "--plain-wireguard").out == f"porch: approved as {ip}\n"
    told = controller("client", "wireguard", "cameras", "porch")
    assert f"Address = {ip}/32" in told.out.splitlines() and key in told.out
    assert "it can reach no member" in told.err
    controller("client", "register", "cameras", "x", "--public-key", "nonsense").refused(USAGE, "public key")
    controller("client", "wireguard", "cameras", "none").refused(NOT_FOUND, "client list")
