"""Why a receiver couldn't be reached, in words: libraries name their exceptions and hide the system's own reason below."""

from __future__ import annotations

import os
import socket
import ssl

_MOST = 300  # characters: it is kept in the database


def why(error: BaseException) -> str:
    """As `connection refused`; what no system call said is the exception's own text, or its name."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its certificate isn't good: {found.verify_message}"[:_MOST]
        if isinstance(found, ssl.SSLError):
            return f"no TLS with it: {found.reason or found}"[:_MOST]
        if isinstance(found, socket.gaierror):
            return "its name can't be looked up"
        if isinstance(found, OSError) and found.errno:
            return os.strerror(found.errno).lower()
        inner = found.args[0] if found.args and isinstance(found.args[0], BaseException) else None
        found = inner or found.__cause__ or found.__context__
    return (str(error) or type(error).__name__)[:_MOST]
