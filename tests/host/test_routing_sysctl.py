"""The kernel's setting that marks count where a packet's source is validated; the kernel is played."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowmesh.dataplane.outer import FirewallMark
from shadowmesh.host import policyrouting
from shadowmesh.host.policyrouting import PolicyRouting


class Refused(Exception):
    pass


class Kernel:
    """Has the note already, as a second rule that is the same is refused."""

    def rule(self, *_what: Any, **_fields: Any) -> None:
        raise Refused(errno.EEXIST)


@contextlib.contextmanager
def ignored(number: int) -> Iterator[None]:
    try:
        yield
    except Refused as e:
        if e.args[0] != number:
            raise


def test_the_setting_that_somebody_took_back_is_held_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "src_valid_mark"
    setting.write_text("0\n")
    monkeypatch.setattr(policyrouting, "_SRC_VALID_MARK", setting)
    PolicyRouting(Kernel(), FirewallMark(), ignored).hold_sysctl()
    assert setting.read_text() == "1"
