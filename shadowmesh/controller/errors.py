"""Refusals, by the kind of failure that they are: what the edge makes statuses of, and the command line exit codes."""

from __future__ import annotations

from shadowmesh.model.errors import Kind, ShadowMeshError


def not_found(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.NOT_FOUND)


def conflict(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.CONFLICT)


def not_allowed(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.NOT_ALLOWED)


def usage(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.USAGE)
