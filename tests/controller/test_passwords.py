"""Passwords: which may be chosen, whose hashes are taken, and what a hostile hash may cost."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING

import argon2
import bcrypt
import pytest
import sqlalchemy as sa
from people import signed_in

from shadowmesh.controller.service import passwords
from shadowmesh.controller.service.passwordrules import check_password, common_passwords
from shadowmesh.controller.service.passwords import hash_password, is_outdated, verify_password
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.userpasswords import generated_password, scheme_of

if TYPE_CHECKING:
    from tests.controller.conftest import World

SECRET = "the old system's password"
HASHER = passwords._hasher  # as it is outside of tests


def scrypt_hash(password: str, ln: int = 12, r: int = 8, p: int = 1) -> str:
    salt = b"sixteen bytes ok"
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=r, p=p, dklen=32, maxmem=2**28)
    return f"$scrypt$ln={ln},r={r},p={p}${b64(salt)}${b64(digest)}"


def b64(raw: bytes) -> str:
    return b64encode(raw).decode().rstrip("=")


HASHES = {
    "bcrypt": bcrypt.hashpw(SECRET.encode(), b"$2b$04$abcdefghijklmnopqrstuu").decode(),
    "scrypt": scrypt_hash(SECRET),
    "argon2id": argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=2).hash(
        SECRET, salt=b"sixteen bytes ok"
    ),
}


@pytest.mark.parametrize("scheme", HASHES)
def test_a_hash_of_elsewhere_is_checked_and_known_to_be_outdated(scheme: str) -> None:
    stored = HASHES[scheme]
    assert scheme_of(stored) == scheme and is_outdated(stored)
    assert verify_password(stored, SECRET) and not verify_password(stored, SECRET + "x")


def test_ours_is_not_outdated() -> None:
    assert not is_outdated(hash_password(SECRET))


def test_bcrypt_looks_at_72_bytes_and_takes_the_other_names_of_its_version() -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert verify_password(stored, "x" * 100), "as the system did from which it comes"
    assert verify_password(stored.replace("$2b$", "$2y$"), "x" * 72) and not verify_password(stored, "x" * 71)


def test_the_plus_may_be_written_as_a_dot() -> None:
    salt = b"\xfb\xef\xbe" * 5
    digest = hashlib.scrypt(b"p", salt=salt, n=2**10, r=8, p=1, dklen=32)
    stored = f"$scrypt$ln=10,r=8,p=1${b64(salt)}${b64(digest)}".replace("+", ".")
    assert "." in stored and verify_password(stored, "p")


@pytest.mark.parametrize(
    "stored",
    [
        HASHES["bcrypt"].replace("$04$", "$15$"), HASHES["bcrypt"].replace("$04$", "$03$"), HASHES["bcrypt"] + "x",
        HASHES["scrypt"].replace("ln=12", "ln=18"), HASHES["scrypt"].replace("p=1", "p=99"),
        HASHES["scrypt"].replace("ln=12", "ln=63"), HASHES["scrypt"].replace("ln=12", "ln=0"),
        HASHES["scrypt"].replace("r=8", "r=0"),
        HASHES["argon2id"].replace("m=1024", "m=131073"), HASHES["argon2id"].replace("t=1", "t=999"),
        HASHES["argon2id"].replace("p=2", "p=17"), HASHES["argon2id"].replace("argon2id", "argon2i"),
        HASHES["argon2id"].replace("v=19", "v=16"),
        "", "plain text", "$1$abcdefgh$0123456789012345678901", "{SSHA}abcdef", "$scrypt$ln=12,r=8,p=1$a$b", SECRET,
    ],
)  # fmt: skip
def test_what_costs_too_much_or_is_no_hash_is_refused_and_never_checked(stored: str) -> None:
    with pytest.raises(ValueError, match=r"^(is no hash|has|costs)") as caught:
        scheme_of(stored)
    assert not stored or stored not in str(caught.value)
    assert not verify_password(stored, SECRET)


def test_the_list_of_common_ones_is_of_those_that_could_be_chosen() -> None:
    common = common_passwords()
    assert len(common) > 2000 and all(len(word) >= 10 and word == word.lower() for word in common)
    assert {"password123", "1234567890", "qwertyuiop"} <= common and "copyright" not in " ".join(common)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "fewer than 10"), ("PassWord123", "tried first"), ("1234567890", "tried first"),
        ("Ann.Longname@example.org", "e-mail"), ("ann.longname", "e-mail"),
    ],
)  # fmt: skip
def test_a_weak_password_is_refused_with_why(password: str, why: str) -> None:
    with pytest.raises(ShadowMeshError, match=why) as caught:
        check_password(password, "ann.longname@example.org")
    assert caught.value.kind is Kind.USAGE and password not in str(caught.value)


def test_our_hashes_cost_what_owasp_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", HASHER)
    stored = hash_password(SECRET)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert verify_password(stored, SECRET) and not verify_password(stored, SECRET + "x") and not is_outdated(stored)
    assert is_outdated(stored.replace("t=2", "t=1"))


def test_what_is_made_here_is_strong_enough() -> None:
    made = {generated_password() for _ in range(50)}
    assert len(made) == 50
    for password in [*made, "all lower case words"]:
        check_password(password, "ann@example.org")


async def test_a_weak_new_password_changes_nothing(world: World) -> None:
    made = await world.call("user_create", accounts.UserCreate(email="ann@example.org"))
    wish = accounts.Login(email=made.email, password=made.password, new_password="password123")
    with pytest.raises(ShadowMeshError) as caught:
        await world.at.signing_in.login(wish, "192.0.2.7")
    assert caught.value.code == "weak_password"
    assert (await signed_in(world, made, "a better one of hers")).token, "the first one is still good"


@pytest.mark.parametrize("scheme", ["bcrypt", "scrypt", "argon2id"])
async def test_people_go_on_with_their_passwords_and_our_hash_takes_the_place(world: World, scheme: str) -> None:
    entry = accounts.ImportedUser(email="ann@example.org", name="Ann", password_hash=HASHES[scheme])
    (ann,) = (await world.call("user_import", accounts.UserImport(users=[entry]))).users
    assert (ann.name, ann.kind, ann.admin) == ("Ann", "person", False)

    async def stored() -> str:
        query = sa.select(schema.users.c.password_hash).where(schema.users.c.id == ann.id)
        return str(await world.at.context.read(lambda conn: conn.execute(query).scalar_one()))

    login = world.at.signing_in.login
    with pytest.raises(ShadowMeshError, match="wrong"):
        await login(accounts.Login(email=ann.email, password="not hers"), "192.0.2.7")
    assert await stored() == HASHES[scheme]
    session = await login(accounts.Login(email=ann.email, password=SECRET), "192.0.2.7")
    new = await stored()
    assert scheme_of(new) == "argon2id" and not is_outdated(new)
    again = accounts.Login(email=ann.email, password=SECRET, device_token=session.device_token)
    for number in range(30):  # strangers' guesses; the device's own attempts are counted by the hash that stands now
        with pytest.raises(ShadowMeshError):
            await login(accounts.Login(email=ann.email, password=f"{number}"), "198.51.100.1")
    assert (await login(again, "198.51.100.1")).user == ann.id and await stored() == new
    entries = [e for e in await world.call("audit_list") if e.action == "user.password-rehashed"]
    assert [(e.detail["before"], e.detail["after"]) for e in entries] == [({"hash": scheme}, {"hash": "argon2id"})]
