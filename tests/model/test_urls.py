"""What counts as a controller's URL."""

from __future__ import annotations

import pytest

from shadowmesh.client_api.contact import first_contact, normal_url
from shadowmesh.controller.settings import check_public_url
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.urls import is_controller_url
from shadowmesh.protocol.signing import IdentityDocument, Signer, sign_identity, verify_identity

NO_URLS = (
    "", "x", "http://a:1", "https://", "https://:1", "https://a:99999", "https://a:0", "https://a:b", "https://[::1",
    "https://a..b:1", f"https://{'a' * 70}.example:1", "https://u@a:1", "https://a:1?b", "https://a:1#b", "https://a\n:1",
)  # fmt: skip
URLS = (
    "https://a",
    "https://192.0.2.1:8443",
    "https://[2001:db8::1]:8443",
    "https://mesh.example:8443",
    "https://bücher.example",
)


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_none_is_refused_wherever_one_is_given(url: str) -> None:
    assert not is_controller_url(url)
    for take, code in ((normal_url, "bad_url"), (check_public_url, "bad_public_url")):
        with pytest.raises(ShadowMeshError) as caught:
            take(url)
        assert (caught.value.code, caught.value.kind) == (code, Kind.USAGE)


def test_a_name_that_only_looks_like_one_is_told_as_such() -> None:
    with pytest.raises(ShadowMeshError) as caught:
        first_contact("https://xn--a:1", "sha256:" + "0" * 64, timeout=1.0)
    assert caught.value.code == "bad_url"


def test_an_identity_brings_those_that_are_urls() -> None:
    signer = Signer.generate()
    document = IdentityDocument(identity=signer.public, ca_pem="x", signing_keys=(), urls=(*NO_URLS, *URLS))
    assert verify_identity(sign_identity(signer, document), signer.public.fingerprint).urls == URLS
