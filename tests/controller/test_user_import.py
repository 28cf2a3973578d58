"""Users of another system: all of a list come, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from people import person
from test_passwords import HASHES

from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


def entry(email: str, **more: Any) -> accounts.ImportedUser:
    return accounts.ImportedUser(email=email, password_hash=HASHES["bcrypt"], **more)


async def test_roles_come_along(world: World) -> None:
    await world.network()
    wish = [
        entry("ann@example.org", role="admin"),
        entry("bob@example.org", name="Bob", network="office", network_role="owner"),
    ]
    made = (await world.call("user_import", accounts.UserImport(users=wish))).users
    assert [(u.email, u.name, u.admin) for u in made] == [
        ("ann@example.org", "", True),
        ("bob@example.org", "Bob", False),
    ]
    assert [(m.email, m.role) for m in await world.call("member_list", "office")] == [("bob@example.org", "owner")]
    entries = [(e.action, e.target) for e in await world.call("audit_list")][-3:]
    assert entries == [
        ("user.add", "ann@example.org"), ("user.add", "bob@example.org"), ("member.set", "bob@example.org")
    ]  # fmt: skip


async def test_nothing_is_half_imported_and_each_fault_has_its_number(world: World) -> None:
    await world.network()
    ann = await person(world, "ann")
    before = len(await world.call("audit_list"))
    wish = [
        entry("new@example.org"),
        entry(ann.email),
        entry("NEW@example.org"),
        entry("bob@example.org", network="nope", network_role="guest"),
        entry("eve@example.org", network="office", network_role="guest"),
    ]
    with pytest.raises(ShadowMeshError) as caught:
        await world.call("user_import", accounts.UserImport(users=wish))
    assert caught.value.code == "import_refused" and "nobody was imported" in caught.value.remedy
    assert [line.partition(":")[0] for line in caught.value.details] == ["entry 2", "entry 3", "entry 4"]
    assert "ann@example.org" in caught.value.details[0] and "nope" in caught.value.details[2]
    assert {u.email for u in await world.call("user_list")} == {world.first.admin_email, ann.email}
    assert await world.call("member_list", "office") == [] and len(await world.call("audit_list")) == before


async def test_a_bad_entry_is_named_by_the_description_and_tells_no_hash(world: World) -> None:
    root = await person(world, "root", admin=True)
    good, bad = {"email": "a@b", "password_hash": HASHES["scrypt"]}, {"email": "c@d", "password_hash": "$2b$99$secret"}
    answer = await root.ask("POST", "/users/import", {"users": [good, bad, good | {"network": "office"}]})
    assert answer.status_code == 422 and "secret" not in answer.text
    assert [line.partition(":")[0] for line in answer.json()["errors"]] == ["users.1.password_hash", "users.2"]
