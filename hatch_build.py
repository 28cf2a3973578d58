"""Builds the native pump (`native/`) into installs and wheels where cargo is; without it, they carry on with the python pump.

`SHADOWMESH_NATIVE=0` leaves it out, `SHADOWMESH_NATIVE=1` makes it an error if it can't be built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_VARIABLE: Final = "SHADOWMESH_NATIVE"
_LIBRARY: Final = "libshadowmesh_native.so"
_EXTENSION: Final = "shadowmesh/_native.abi3.so"


class NativePump(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """hatchling calls this before it gathers files; `version` is "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        wanted = os.environ.get(_VARIABLE, "")
        extension = Path(self.root, _EXTENSION)
        failure = f"{_VARIABLE}=0" if wanted == "0" else self._build(extension)
        if failure:
            extension.unlink(missing_ok=True)  # an older one would pass for this source's
            if wanted == "1":
                raise RuntimeError(f"the native pump can't be built: {failure}")
            self.app.display_warning(f"shadowmesh: without the native pump ({failure}); the python pump does its work")
            return
        self.app.display_info("shadowmesh: native pump built")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["artifacts"].append(_EXTENSION)

    def _build(self, extension: Path) -> str:
        """Compiles the crate and puts the extension in its place. Returns why that failed, or nothing."""
        cargo = shutil.which("cargo", path=f"{os.environ.get('PATH', os.defpath)}:{Path.home() / '.cargo/bin'}")
        if cargo is None:
            return "no cargo on this machine"
        asked = subprocess.run([cargo, "--version"], capture_output=True, text=True, check=False)
        if asked.returncode:  # rustup's proxy without a toolchain
            return f"cargo doesn't work here ({(asked.stderr.strip() or 'no reason given').splitlines()[0]})"
        crate = Path(self.root, "native")
        target = Path(os.environ.get("CARGO_TARGET_DIR", crate / "target"))
        command = [cargo, "build", "--release", "--locked", "--features", "python", "--target-dir", str(target)]
        try:
            built = subprocess.run(command, cwd=crate, capture_output=True, text=True, check=False)
        except OSError as e:
            return f"cargo: {e.strerror}"
        if built.returncode:
            errors = [line for line in built.stderr.splitlines() if line.startswith("error")]
            return errors[0] if errors else f"cargo ended with code {built.returncode}"
        temporary = extension.with_suffix(".new")
        shutil.copyfile(target / "release" / _LIBRARY, temporary)
        temporary.replace(extension)  # running pumps keep the file that they have
        return ""
