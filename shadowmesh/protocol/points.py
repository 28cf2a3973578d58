"""Public keys that are no honest point: of small order, or not written in the one canonical way.

With a point of small order the shared secret of X25519 is zero whatever the other's private key (RFC 7748, section 6.1),
and an Ed25519 key of small order "signs" every message. No honest key is one, so they are refused wherever a public key
enters. Not canonical are 255-bit numbers of p and above and, for X25519, a set top bit: a second spelling of the same
key, by which one key could pass for two.
"""

from __future__ import annotations

from shadowmesh.model.errors import MalformedError

_P = 2**255 - 19
_SIGN = 1 << 255

# u of the points of order 1, 2, 4 and 8 on curve and twist (cr.yp.to/ecdh.html)
_SMALL_U = frozenset(
    {
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
_Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
# y of the points of order 1, 2, 4 and 8 on edwards25519; u = (1 + y) / (1 − y) makes the ones above of them
_SMALL_Y = frozenset({1, _P - 1, 0, _Y8, _P - _Y8})


def has_small_order(public: bytes) -> bool:
    """Whether X25519 with these 32 bytes gives zero for every private key, however they are spelt."""
    return (int.from_bytes(public, "little") & ~_SIGN) % _P in _SMALL_U


def is_sound_x25519(public: bytes) -> bool:
    """Whether these 32 bytes are the canonical form of an X25519 public key that is not of small order."""
    u = int.from_bytes(public, "little")
    return len(public) == 32 and u < _P and u not in _SMALL_U


def is_sound_ed25519(public: bytes) -> bool:
    """Whether these 32 bytes can be an Ed25519 public key: a canonical y, of no point of small order.

    Whether there is a point with this y only a verification shows.
    """
    y = int.from_bytes(public, "little") & ~_SIGN
    return len(public) == 32 and y < _P and y not in _SMALL_Y


def check_x25519(public: bytes, what: str) -> None:
    """Raises MalformedError that names `what` if it isn't sound."""
    if not is_sound_x25519(public):
        raise MalformedError(f"the {what} is no usable X25519 public key")


def check_ed25519(public: bytes, what: str) -> None:
    """Raises MalformedError that names `what` if it isn't sound."""
    if not is_sound_ed25519(public):
        raise MalformedError(f"the {what} is no usable Ed25519 public key")
