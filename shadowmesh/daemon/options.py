"""What a daemon is told beside what its networks say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shadowmesh.client_api.ownenrolment import OwnEnrolment, SignIn
    from shadowmesh.config.clientconfig import ClientConfig


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """Without `p2p` this machine goes through relays alone. `port`: the UDP port, 0 for the one that was kept, or a free one.
    `port_mapping`: the router is asked to open that port. `stun_servers`: HOST:PORT, asked besides those of the networks."""

    p2p: bool = True
    port: int = 0
    port_mapping: bool = False
    stun_servers: tuple[str, ...] = ()


def options_in(config: ClientConfig) -> DaemonOptions:
    paths = config.p2p
    servers = tuple(server.removeprefix("stun:") for server in paths.stun_servers)
    return DaemonOptions(p2p=paths.enabled, port=paths.port, port_mapping=paths.port_mapping, stun_servers=servers)


def own_enrolment(config: ClientConfig) -> OwnEnrolment | None:
    """Where this machine is to enrol itself; `clientconfig.remarks` has seen to it that all that it takes is there."""
    from shadowmesh.client_api.ownenrolment import OwnEnrolment

    controller = config.controller
    if not controller.enabled:
        return None
    assert controller.url is not None and controller.network_id is not None
    return OwnEnrolment(
        controller.url,
        controller.network_id,
        _sign_in(config),
        controller.client_name,
        controller.fingerprint,
        controller.ca_file,
    )


def _sign_in(config: ClientConfig) -> SignIn:
    from shadowmesh.client_api.ownenrolment import ApiKeySignIn, CertificateSignIn, JwtSignIn

    given = config.authentication
    if given.method == "mtls":
        assert given.cert_file is not None and given.key_file is not None
        return CertificateSignIn(given.cert_file, given.key_file)
    if given.method == "jwt":
        assert given.jwt_token is not None
        return JwtSignIn(given.jwt_token, given.refresh_url)
    key = config.controller.api_key or given.api_key
    assert key is not None
    return ApiKeySignIn(key)
