"""Joining, as the daemon keeps it: what is refused uses nothing up, and what was cut off is finished by the next try."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowmesh.client_api.contact import Contact
from shadowmesh.client_api.enroll import EnrolResult
from shadowmesh.daemon import join
from shadowmesh.daemon.state import NetworkRecord, NetworkSecrets, State
from shadowmesh.model.enrol import EnrolAnswer
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.ids import InviteID
from shadowmesh.model.invite import Invite
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.protocol.noise import public_key

SUBNET = ipaddress.IPv4Network("10.1.0.0/24")


class Controller:
    """What stands at the other end: one network, and which keys it has seen."""

    def __init__(self, record: NetworkRecord) -> None:
        self.record = record
        self.enrolled: list[WireGuardPublicKey] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def enroll(self, _invite: Any, *, wg_private: Secret, check: Any, **_: Any) -> EnrolResult:
        self.before()
        check(self.record.network_id, self.record.name, SUBNET)
        self.enrolled.append(public_key(wg_private))
        self.after()
        answer = EnrolAnswer(
            state="approved", network=self.record.ref, network_name=self.record.name, network_id=self.record.network_id,
            client_id=self.record.client_id, name="here", ip=ipaddress.IPv4Address(self.record.ip), subnet=SUBNET,
        )  # fmt: skip
        identity = self.record.controller.identity
        return EnrolResult(Contact(identity.urls[0], identity, tls=ssl.create_default_context()), answer)


@pytest.fixture
def controller(joined: tuple[NetworkRecord, NetworkSecrets], monkeypatch: pytest.MonkeyPatch) -> Controller:
    found = Controller(joined[0])
    monkeypatch.setattr(join, "enroll", found.enroll)
    return found


def invite(number: int = 1) -> str:
    return Invite(
        urls=("https://192.0.2.1:8443",), fingerprint="sha256:" + "0" * 64, invite_id=InviteID(f"inv_{number}"),
        secret="A" * 22,
    ).encode()  # fmt: skip


def enrol(state: State, text: str, refuse: Any = lambda *_: None) -> NetworkRecord:
    return join.enrol(state, text, name=None, controller=None, fingerprint=None, refuse=refuse)


def kept_enrolments(state: State) -> int:
    return int(state._db.execute("SELECT count(*) FROM enrolments").fetchone()[0])


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def state(tmp_path: Path) -> Any:
    found = State(tmp_path)
    yield found
    found.close()


def test_a_join_is_kept_and_its_enrolment_is_over(state: State, controller: Controller) -> None:
    record = enrol(state, invite())
    assert state.networks() == [record] and kept_enrolments(state) == 0
    with pytest.raises(ShadowMeshError) as caught:
        enrol(state, invite(2))
    assert (caught.value.code, caught.value.kind) == ("already_joined", Kind.CONFLICT)
    assert len(controller.enrolled) == 1 and kept_enrolments(state) == 0


def test_what_this_host_cant_carry_is_never_sent(state: State, controller: Controller) -> None:
    overlap = join.overlap_error("office", SUBNET, "interface eth0", SUBNET)
    with pytest.raises(ShadowMeshError, match="overlaps"):
        enrol(state, invite(), raising(overlap))
    assert (controller.enrolled, state.networks(), kept_enrolments(state)) == ([], [], 0)


def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_keys(state: State, controller: Controller) -> None:
    away = ShadowMeshError("controller_unreachable", "away", kind=Kind.UNREACHABLE)
    controller.after = raising(away)
    with pytest.raises(ShadowMeshError):
        enrol(state, invite())
    with pytest.raises(ShadowMeshError, match="overlaps"):  # now this host can't carry it: the keys stay all the same
        enrol(state, invite(), raising(join.overlap_error("office", SUBNET, "x", SUBNET)))
    controller.after = lambda: None
    enrol(state, invite())
    assert len(set(controller.enrolled)) == 1 and len(controller.enrolled) == 2


def test_killed_between_membership_and_end_the_same_invite_finishes_it(
    state: State, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(State, "end_enrolment", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            enrol(state, invite())
    assert len(state.networks()) == 1
    with pytest.raises(ShadowMeshError, match="already"):
        enrol(state, invite(2))
    enrol(state, invite())
    assert len(set(controller.enrolled)) == 1 and kept_enrolments(state) == 0


@pytest.mark.parametrize("code", ["invite_invalid", "invite_expired", "invite_revoked", "invite_used_up"])
def test_keys_for_an_invite_that_is_no_use_are_not_kept(state: State, controller: Controller, code: str) -> None:
    controller.before = raising(ShadowMeshError(code, "no"))
    with pytest.raises(ShadowMeshError):
        enrol(state, invite())
    assert kept_enrolments(state) == 0


def test_while_the_controller_is_away_keys_wait(state: State, controller: Controller) -> None:
    controller.before = raising(ShadowMeshError("controller_unreachable", "away", kind=Kind.UNREACHABLE))
    for _ in range(2):
        with pytest.raises(ShadowMeshError):
            enrol(state, invite())
    assert kept_enrolments(state) == 1
