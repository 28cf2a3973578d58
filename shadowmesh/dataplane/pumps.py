"""Which pump this installation uses. `python -m shadowmesh.dataplane.pumps` says it in one line."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias, get_args

from shadowmesh.model.errors import ShadowMeshError

PumpName: TypeAlias = Literal["native", "python"]
PUMP_NAMES: Final[tuple[PumpName, ...]] = get_args(PumpName)
ENVIRONMENT: Final = "SHADOWMESH_PUMP"
EXTENSION: Final = "shadowmesh._native"


def native_built() -> bool:
    """Whether the extension is there. It isn't loaded: that is the child's part."""
    return find_spec(EXTENSION) is not None


def choose_pump() -> PumpName:
    """The pump that `SHADOWMESH_PUMP` asks for, else the native one if it was built, else the python one.

    Raises ShadowMeshError: `pump_unknown`, `pump_missing`.
    """
    wanted = os.environ.get(ENVIRONMENT, "")
    for name in PUMP_NAMES:
        if wanted == name:
            return checked(name)
    if wanted:
        raise ShadowMeshError("pump_unknown", f"{ENVIRONMENT}={wanted} names no pump", "use native or python")
    return "native" if native_built() else "python"


def checked(name: PumpName) -> PumpName:
    """The name, if that pump can run here. Raises ShadowMeshError `pump_missing`."""
    if name == "native" and not native_built():
        raise ShadowMeshError(
            "pump_missing",
            "the native pump was not built in this installation",
            f"install cargo and ShadowMesh again, or set {ENVIRONMENT}=python",
        )
    return name


def main() -> None:
    name = choose_pump()
    why = (
        "" if name == "native" or native_built() else " (the native one was not built: it needs cargo and a C compiler)"
    )
    print(f"pump: {name}{why}")


if __name__ == "__main__":
    main()
