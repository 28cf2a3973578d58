"""The `client-config.yaml` that a controller hands to whoever lets machines join: where to go, and an API key's place."""

from __future__ import annotations

import json

from shadowmesh.model.text import escaped


def client_configuration(url: str, fingerprint: str, network_id: str, network_name: str) -> str:
    """For `shadowmesh daemon run --config`. It has no secret in it."""
    values = {"url": url, "fingerprint": fingerprint, "network_id": network_id}
    return "\n".join(
        [
            f"# A machine of {escaped(network_name)}: shadowmesh daemon run --config client-config.yaml",
            "# The key: shadowmesh api-key create --scope client.register --network NAME",
            "controller:",
            "  enabled: true",
            *(f"  {name}: {json.dumps(value)}" for name, value in values.items()),
            '  api_key: "FROM_ENV_OR_SECRET" # SHADOWMESH_CONTROLLER_API_KEY',
            "",
        ]
    )
