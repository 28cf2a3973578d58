"""From a bearer token to who presents it."""

from __future__ import annotations

from shadowmesh.controller.authz import Principal, not_signed_in
from shadowmesh.controller.service.api_keys import KEY_PREFIX, ApiKeys
from shadowmesh.controller.service.sessions import Sessions


class Credentials:
    def __init__(self, sessions: Sessions, api_keys: ApiKeys) -> None:
        self._sessions = sessions
        self._api_keys = api_keys

    async def principal(self, bearer: str) -> Principal:
        """Who presents this API key or access token. Raises ShadowMeshError(not_signed_in)."""
        if bearer.startswith(KEY_PREFIX):
            found = await self._api_keys.principal(bearer)
        else:
            found = await self._sessions.principal(bearer)
        if found is None:
            raise not_signed_in()
        return found

    async def of_certificate(self, identity: str) -> Principal:
        """Who shows a certificate of ours that stands for this. Raises ShadowMeshError(not_signed_in)."""
        kind, _, key_id = identity.partition(":")
        found = await self._api_keys.principal_of(key_id) if kind == "api-key" else None
        if found is None:
            raise not_signed_in()
        return found
