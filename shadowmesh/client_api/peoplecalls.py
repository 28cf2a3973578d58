"""The calls of the REST API that are about people, as `rest.ControllerClient` has them; and what all calls are put together from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from shadowmesh.model import accounts, api
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    import httpx

    from shadowmesh.client_api.localhttp import LocalAnswer

M = TypeVar("M", bound=BaseModel)


class PeopleCalls:
    """Users, their sessions and their API keys. Who inherits it moves the requests."""

    def _send(
        self, method: str, path: str, body: BaseModel | dict[str, Any] | None = None, **options: Any
    ) -> httpx.Response | LocalAnswer:
        raise NotImplementedError

    def _get(self, path: str, kind: type[M], **params: Any) -> M:
        raise NotImplementedError

    def _post(self, path: str, kind: type[M], body: BaseModel | dict[str, Any] | None = None) -> M:
        raise NotImplementedError

    def _all(self, path: str, kind: type[M], **params: Any) -> Iterator[M]:
        raise NotImplementedError

    def whoami(self) -> accounts.WhoAmI:
        return self._get("/whoami", accounts.WhoAmI)

    def api_key_create(self, wish: accounts.ApiKeyCreate) -> accounts.ApiKeyCreated:
        return self._post("/api-keys", accounts.ApiKeyCreated, wish)

    def api_key_list(self) -> list[accounts.ApiKey]:
        return list(self._all("/api-keys", accounts.ApiKey))

    def api_key_revoke(self, key_id: str) -> None:
        self._send("DELETE", f"/api-keys/{part(key_id)}")

    def api_key_certificate(self, key_id: str, csr: str) -> accounts.Certificate:
        return self._post(
            f"/api-keys/{part(key_id)}/certificate", accounts.Certificate, accounts.CertificateRequest(csr=csr)
        )

    def second_factor(self) -> accounts.SecondFactor:
        return self._get("/auth/mfa", accounts.SecondFactor)

    def second_factor_enrol(self, password: str) -> accounts.SecondFactorSecret:
        answer = self._send("POST", "/auth/mfa/enrol", {"password": password})
        return parse(answer, accounts.SecondFactorSecret)

    def second_factor_confirm(self, code: str) -> accounts.RecoveryCodes:
        return parse(self._send("POST", "/auth/mfa/confirm", {"code": code}), accounts.RecoveryCodes)

    def recovery_codes_renew(self, code: str) -> accounts.RecoveryCodes:
        return parse(self._send("POST", "/auth/mfa/recovery-codes", {"code": code}), accounts.RecoveryCodes)

    def second_factor_disable(self, password: str, code: str) -> None:
        self._send("POST", "/auth/mfa/disable", {"password": password, "code": code})

    def second_factor_reset(self, user: str) -> None:
        self._send("DELETE", f"/users/{part(user)}/mfa")

    def session_list(self, user: str | None = None) -> list[accounts.SessionInfo]:
        """One's own; of a user for administrators. At the controller's own socket all, if nobody is named."""
        return list(self._all("/sessions", accounts.SessionInfo, user=user))

    def session_end(self, session: str) -> None:
        self._send("DELETE", f"/sessions/{part(session)}")

    def policy_document(self, user: str) -> accounts.PolicyDocument:
        return self._get(f"/users/{part(user)}/policy", accounts.PolicyDocument)

    def policy_document_set(self, user: str, wish: accounts.PolicyDocumentPut) -> accounts.PolicyDocument:
        return parse(self._send("PUT", f"/users/{part(user)}/policy", wish), accounts.PolicyDocument)

    def access_explain(self, network: str, user: str | None = None, key: str | None = None) -> accounts.AccessExplained:
        return self._get(f"/networks/{part(network)}/access", accounts.AccessExplained, user=user, key=key)

    def settings_show(self) -> accounts.ControllerSettings:
        return self._get("/settings", accounts.ControllerSettings)

    def settings_set(self, wish: accounts.ControllerSettingsPatch) -> accounts.ControllerSettings:
        return parse(self._send("PATCH", "/settings", wish), accounts.ControllerSettings)

    def group_create(self, wish: accounts.GroupCreate) -> accounts.Group:
        return self._post("/groups", accounts.Group, wish)

    def group_list(self) -> list[accounts.Group]:
        return list(self._all("/groups", accounts.Group))

    def group_show(self, group: str) -> accounts.Group:
        return self._get(f"/groups/{part(group)}", accounts.Group)

    def group_set(self, group: str, wish: accounts.GroupPatch) -> accounts.Group:
        return parse(self._send("PATCH", f"/groups/{part(group)}", wish), accounts.Group)

    def group_delete(self, group: str) -> None:
        self._send("DELETE", f"/groups/{part(group)}")

    def group_add(self, group: str, user: str) -> accounts.Group:
        return parse(self._send("PUT", f"/groups/{part(group)}/users/{part(user)}"), accounts.Group)

    def group_remove(self, group: str, user: str) -> accounts.Group:
        return parse(self._send("DELETE", f"/groups/{part(group)}/users/{part(user)}"), accounts.Group)

    def group_set_role(self, group: str, network: str, wish: api.GivenRole) -> accounts.Group:
        return parse(self._send("PUT", f"/groups/{part(group)}/networks/{part(network)}", wish), accounts.Group)

    def group_remove_role(self, group: str, network: str) -> accounts.Group:
        return parse(self._send("DELETE", f"/groups/{part(group)}/networks/{part(network)}"), accounts.Group)

    def user_create(self, wish: accounts.UserCreate) -> accounts.UserCreated:
        return self._post("/users", accounts.UserCreated, wish)

    def user_import(self, wish: accounts.UserImport) -> accounts.UserImported:
        return parse(self._send("POST", "/users/import", wish), accounts.UserImported)

    def user_invite(self, wish: accounts.UserInvite) -> accounts.UserInvitationCreated:
        return parse(self._send("POST", "/users/invitations", wish), accounts.UserInvitationCreated)

    def user_invitations(self) -> list[accounts.UserInvitation]:
        return list(self._all("/users/invitations", accounts.UserInvitation))

    def user_invitation_revoke(self, invitation: str) -> None:
        self._send("DELETE", f"/users/invitations/{part(invitation)}")

    def user_list(self) -> list[accounts.User]:
        return list(self._all("/users", accounts.User))

    def user_set(self, user: str, wish: accounts.UserPatch) -> accounts.User:
        return parse(self._send("PATCH", f"/users/{part(user)}", wish), accounts.User)

    def user_delete(self, user: str, give_to: str | None = None) -> accounts.UserDeleted:
        asked = {} if give_to is None else {"give_to": give_to}
        return parse(self._send("DELETE", f"/users/{part(user)}", params=asked), accounts.UserDeleted)

    def user_reset_password(self, user: str) -> accounts.UserCreated:
        return self._post(f"/users/{part(user)}/reset-password", accounts.UserCreated)


def part(text: str) -> str:
    """One segment of a path, whatever a person typed."""
    if not text:
        raise ShadowMeshError("bad_name", "a name is missing", kind=Kind.USAGE)
    return quote(text, safe="")


def parse(answer: httpx.Response | LocalAnswer, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as e:
        raise ShadowMeshError(
            "bad_answer", "the controller's answer isn't understood", "is it of another version than this command?"
        ) from e
