"""The log of the long-running verbs: events with fields on stderr, for people on a terminal, as JSON lines elsewhere.

A line that can't be written is lost and stops nobody: a role does its work with a log on a full disk, too, or one that
nobody reads any more.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import structlog

from shadowmesh.cli.base import Call
from shadowmesh.model.text import escape_log

_STDERR = 2


class _Lines:
    """A file for structlog. It buffers nothing: what can't be written isn't tried again at the process's end."""

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(_STDERR, data) :]

    def flush(self) -> None: ...


def set_up(call: Call, level: str = "info") -> None:
    """`level`: the least that is logged; with --debug everything is."""
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=call.color, exception_formatter=structlog.dev.plain_traceback)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            escape_log,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if call.debug else getattr(logging, level.upper())
        ),
        logger_factory=structlog.WriteLoggerFactory(_Lines()),  # type: ignore[arg-type]
    )
