"""The log of the long-running verbs: events with fields on stderr, for people on a terminal, as JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog

from shadowmesh.cli.base import Call
from shadowmesh.model.text import escape_log


def set_up(call: Call) -> None:
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
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if call.debug else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
