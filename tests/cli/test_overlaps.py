"""`diff` and `apply` tell of subnets that would overlap before anything is changed."""

from __future__ import annotations

from shadowmesh.client_api.drift import Drift
from shadowmesh.client_api.overlaps import overlaps
from shadowmesh.model import api


def there(**subnets: str) -> dict[str, api.Network]:
    return {name: api.Network.model_construct(name=name, subnet=subnet) for name, subnet in subnets.items()}


def made(name: str, subnet: str | None) -> Drift:
    return Drift("create", "network", name, None, {} if subnet is None else {"subnet": (None, subnet)})


def test_what_is_made_is_held_against_what_is_there_and_against_each_other() -> None:
    changes = [made("lab", "10.1.0.0/16"), made("shop", "10.1.3.0/24"), made("else", "10.9.0.0/24"), made("any", None)]
    assert overlaps(there(office="10.1.2.0/24", home="10.2.0.0/24"), changes) == [
        "lab (10.1.0.0/16) would overlap office (10.1.2.0/24), shop (10.1.3.0/24): no machine can be in both at once",
    ], "each pair is told once"


def test_what_was_there_before_or_goes_away_is_not_told() -> None:
    both = there(office="10.1.0.0/24", home="10.1.0.0/16")
    assert overlaps(both, [Drift("set", "network", "home", None, {"approval": (False, True)})]) == []
    moved = Drift("set", "network", "OFFICE", None, {"subnet": ("10.1.0.0/24", "10.1.9.0/24")})
    assert overlaps(both, [moved]) == [
        "office (10.1.9.0/24) would overlap home (10.1.0.0/16): no machine can be in both at once"
    ]
    assert overlaps(both, [moved, Drift("delete", "network", "home")]) == []
    assert overlaps({}, [made("lab", "nonsense"), made("x", "10.0.0.1/24")]) == [], "the controller refuses these"


def test_many_are_counted() -> None:
    (told,) = overlaps(there(**{f"n{k}": f"10.0.{k}.0/24" for k in range(9)}), [made("all", "10.0.0.0/8")])
    assert told.endswith("n4 (10.0.4.0/24) and 4 more: no machine can be in both at once")
