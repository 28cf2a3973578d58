"""Statements that are built once: to build one costs four times what it takes to run it with other values.

    @prepared
    def _named(ref: str, name: str) -> sa.Select[Any]:
        return sa.select(c).where(c.c.network_ref == ref, c.c.name == name)

    conn.execute(*_named(network.ref, "web"))

The function is called once, with a parameter in the place of each argument. So it can't look at its arguments, and `None`
isn't `IS NULL`: what differs by them is another function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

P = ParamSpec("P")
S = TypeVar("S", bound=sa.Executable)


def prepared(build: Callable[P, S]) -> Callable[P, tuple[S, dict[str, Any]]]:
    """Makes of `build` a function of positional values that returns its statement and the values by name, for `Connection.execute`."""
    names = [f"value_{name}" for name in inspect.signature(build).parameters]  # no column is called so
    statement: list[S] = []

    def bound(*values: P.args, **_: P.kwargs) -> tuple[S, dict[str, Any]]:
        if not statement:
            statement.append(build(*map(sa.bindparam, names)))  # type: ignore[arg-type, call-arg]
        return statement[0], dict(zip(names, values, strict=True))

    return bound
