"""Which passwords people may choose: long ones that aren't among those that everybody tries first. No rules of composition."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from shadowmesh.controller.refusals import usage

LEAST = 10  # characters; the API's description says so, too


@cache
def common_passwords() -> frozenset[str]:
    """In lower case, as far as they are long enough to be chosen at all."""
    text = files("shadowmesh.controller.service").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def check_password(password: str, email: str) -> None:
    """Raises ShadowMeshError(weak_password)."""
    lowered = password.lower()
    if len(password) < LEAST:
        why = f"has fewer than {LEAST} characters"
    elif lowered in common_passwords():
        why = "is among those that are tried first"
    elif lowered in {email.lower(), email.lower().partition("@")[0]}:
        why = "is the e-mail address"
    else:
        return
    raise usage("weak_password", f"the new password {why}", "choose another, or have one made with --generate")
