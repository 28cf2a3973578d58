"""A client that openapi-python-client makes of the API's description works with a real controller."""

from __future__ import annotations

import asyncio
import json
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from people import web

if TYPE_CHECKING:
    from tests.controller.conftest import World

GENERATOR = "openapi-python-client>=0.26"

PROGRAM = """
import json, ssl, sys
from made import AuthenticatedClient, models
from made.api.clients import list_clients, register_client, show_peer
from made.api.networks import create_network, delete_network, list_networks

url, token, ca, key = sys.argv[1:]
tls = ssl.create_default_context(cafile=ca)
with AuthenticatedClient(base_url=url, token=token, verify_ssl=tls) as client:
    wish = models.NetworkCreate(name="acme-prod", subnet="10.100.1.0/24", p2p_enabled=True)
    network = create_network.sync(client=client, body=wish)
    listed = list_networks.sync(client=client).networks
    wish = models.ClientRegister(client_name="server-1", public_key=key, invitation_code=network.invitation_code)
    made = register_client.sync(network.network_id, client=client, body=wish)
    clients = list_clients.sync(network.network_id, client=client).clients
    refused = show_peer.sync_detailed(network.network_id, made.client_id, client=client)
    gone = delete_network.sync_detailed(network.network_id, client=client)
print(json.dumps({
    "network": network.network_id, "listed": [n.network_id for n in listed], "client": made.client_id,
    "ip": made.assigned_ip, "clients": [[c.client_id, c.status, c.public_key] for c in clients],
    "refused": [refused.status_code, refused.parsed.code], "gone": gone.status_code,
}))
"""


def generated(document: bytes, where: Path) -> Path:
    """A Python that has the generator, beside the package `made` that it made."""
    venv.create(where / "venv", with_pip=True)
    python = where / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", GENERATOR], check=True)
    (where / "openapi.json").write_bytes(document)
    command = [python, "-m", "openapi_python_client", "generate", "--path", where / "openapi.json"]
    options = ["--output-path", where / "made", "--meta", "none", "--fail-on-warning"]
    environ = {"PATH": f"{python.parent}:/usr/bin:/bin"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=where, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_a_generated_client_works(world: World, tmp_path: Path) -> None:
    async with web(world) as http:
        document = (await http.get("/api/v1/openapi.json")).content
    python = await asyncio.to_thread(generated, document, tmp_path)
    key, ca = str(world.device().wg_key), world.data_dir / "ca.pem"
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [python, tmp_path / "program.py", world.url, world.first.api_key, ca, key]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["listed"] == [told["network"]] and told["ip"] == "10.100.1.1"
    assert told["clients"] == [[told["client"], "offline", key]]
    assert told["refused"] == [404, "client_unknown"] and told["gone"] == 204
