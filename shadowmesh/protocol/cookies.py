"""WireGuard's defence against floods: mac1, mac2 and the cookie reply, as in the WireGuard paper, sections 5.3, 5.4.4 and 5.4.7.

Every handshake message ends in mac1 (16 bytes, keyed by the receiver's public key: who doesn't know it gets silence)
and mac2 (16 bytes, zero until the receiver, under load, has asked for proof of address by a cookie reply).
"""

from __future__ import annotations

import ipaddress
import os
import struct
from hashlib import blake2s
from hmac import compare_digest
from typing import Final

import nacl.bindings
import nacl.exceptions

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import WireGuardPublicKey
from shadowmesh.protocol.noise import COOKIE_REPLY, INITIATION, RESPONSE, message_type, sender_index
from shadowmesh.protocol.primitives import AuthFailure

COOKIE_LIFETIME: Final = 120.0
"""Seconds for which a cookie is used by who got it, and for which a secret makes cookies."""

_LABEL_MAC1: Final = b"mac1----"
_LABEL_COOKIE: Final = b"cookie--"
_NO_MAC: Final = bytes(16)


def mac1_key(public: bytes) -> bytes:
    """The 32-byte key of mac1 for messages to `public`; depends on nothing secret, so it is computed once."""
    return blake2s(_LABEL_MAC1 + public).digest()


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=16).digest()


def verify_mac1(message: bytes, key: bytes) -> bool:
    """Whether an initiation or response was made for the holder of `mac1_key` `key`."""
    return compare_digest(_mac(key, message[:-32]), message[-32:-16])


class CookieJar:
    """One peer's side of asking: puts the macs on what goes to it, keeps the cookie it hands out."""

    __slots__ = ("_cookie", "_cookie_key", "_cookie_until", "_last_mac1", "_mac1_key")

    def __init__(self, peer: WireGuardPublicKey) -> None:
        self._mac1_key = mac1_key(peer)
        self._cookie_key = blake2s(_LABEL_COOKIE + peer).digest()
        self._cookie = b""
        self._cookie_until = 0.0
        self._last_mac1 = b""

    def add_macs(self, message: bytes, now: Now) -> bytes:
        """The initiation or response with mac1, and mac2 while a cookie is valid."""
        body = message[:-32]
        mac1 = self._last_mac1 = _mac(self._mac1_key, body)
        mac2 = _mac(self._cookie, body + mac1) if now.boot < self._cookie_until else _NO_MAC
        return body + mac1 + mac2

    def consume_reply(self, message: bytes, now: Now) -> None:
        """Takes the cookie from a reply to the last message that went through `add_macs`; the next one will carry mac2.

        Raises AuthFailure when the reply isn't to that message, MalformedError when it is no cookie reply. The caller
        resends at its next timer, not at once: an attacker on the way could make a loop of that.
        """
        if message_type(message) != COOKIE_REPLY:
            raise MalformedError("not a cookie reply")
        if not self._last_mac1:
            raise AuthFailure("a cookie reply to nothing")
        try:
            self._cookie = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                message[32:], self._last_mac1, message[8:32], self._cookie_key
            )
        except nacl.exceptions.CryptoError as e:
            raise AuthFailure("a cookie reply that doesn't authenticate") from e
        self._last_mac1 = b""  # one reply for one message
        self._cookie_until = now.boot + COOKIE_LIFETIME


class CookieChecker:
    """The responder's side: hands out cookies bound to a source address, and knows its own.

    For a message that came by a relay the source is the sender's overlay address, which the relay has checked.
    """

    __slots__ = ("_cookie_key", "_secret", "_secret_until")

    def __init__(self, public: WireGuardPublicKey) -> None:
        self._cookie_key = blake2s(_LABEL_COOKIE + public).digest()
        self._secret = b""
        self._secret_until = float("-inf")

    def check_mac2(self, message: bytes, source: SockAddr, now: Now) -> bool:
        """Whether the sender has proved that it receives at `source`, by a cookie of at most 120 s."""
        if now.boot >= self._secret_until:
            return False
        return compare_digest(_mac(self._cookie(source), message[:-16]), message[-16:])

    def reply(self, message: bytes, source: SockAddr, now: Now, *, nonce: bytes | None = None) -> bytes:
        """The 64-byte cookie reply to an initiation or response whose mac1 has been verified.

        Raises MalformedError for other messages. It is smaller than what it answers.
        """
        if message_type(message) not in (INITIATION, RESPONSE):
            raise MalformedError("only a handshake message is answered with a cookie")
        if now.boot >= self._secret_until:
            self._secret = os.urandom(32)
            self._secret_until = now.boot + COOKIE_LIFETIME
        nonce = os.urandom(24) if nonce is None else nonce
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            self._cookie(source), message[-32:-16], nonce, self._cookie_key
        )
        return struct.pack("<II", COOKIE_REPLY, sender_index(message)) + nonce + sealed

    def _cookie(self, source: SockAddr) -> bytes:
        return _mac(self._secret, ipaddress.ip_address(source.host).packed + source.port.to_bytes(2, "big"))


class LoadGauge:
    """Tells when handshakes come faster than they should be answered unproven.

    A token bucket of `per_second` handshakes, as many in a burst; once empty, the load lasts for another second, so
    that the answer doesn't flicker.
    """

    __slots__ = ("_at", "_loaded_until", "_per_second", "_tokens")

    def __init__(self, per_second: float = 200.0) -> None:
        self._per_second = per_second
        self._tokens = per_second
        self._at = 0.0
        self._loaded_until = float("-inf")

    def note(self, now: Now) -> bool:
        """Counts one handshake message that came in; True while under load."""
        self._tokens = min(self._per_second, self._tokens + max(0.0, now.boot - self._at) * self._per_second)
        self._at = now.boot
        if self._tokens < 1.0:
            self._loaded_until = now.boot + 1.0
        else:
            self._tokens -= 1.0
        return now.boot < self._loaded_until
