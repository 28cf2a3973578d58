"""Starts a controller: finds what it is told, takes its directory, then imports what serves.

In this order, so that who looks at the lock sees early that one is starting (`client_api.starting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shadowmesh.config.controllerconfig import ControllerConfig
from shadowmesh.config.resolving import Flag, Given, Resolved
from shadowmesh.config.roles import require_secrets, resolve_controller
from shadowmesh.controller.configured import Configured, configured, kept_values
from shadowmesh.controller.settings import DataDir, Timing, only_one, private_files, write_settings
from shadowmesh.model.clock import utc_now


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`listen`, `public_urls` and `web` stand over what `init` wrote, as do `flags` (paths of the configuration, with the arguments' names),
    the environment and the file `config`. With a file, a directory that holds no controller yet gets one."""

    data_dir: Path | None = None  # None: where the configuration says
    listen: str | None = None
    public_urls: tuple[str, ...] = ()
    web: bool | None = None
    config: Path | None = None
    flags: Mapping[str, Flag] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    ready: Callable[[], None] | None = None  # called when all sockets serve

    def given(self, where: DataDir | None = None) -> Given:
        flags = dict(self.flags)
        if self.data_dir is not None:
            flags["controller.data_dir"] = Flag(self.data_dir, "--data-dir", checked=True)
        if self.listen is not None:
            flags["controller.listen_address"] = Flag(self.listen, "--listen", checked=True)
        if self.public_urls:
            flags["controller.public_urls"] = Flag(self.public_urls, "--public-url", checked=True)
        if self.web is not None:
            flags["controller.web"] = Flag(self.web, "--web", checked=True)
        if where is None:
            return Given(flags)
        kept = kept_values(where, where.read())
        return Given(flags, kept=kept, kept_in=str(where.config))


def run(options: RunOptions, set_up_log: Callable[[str], None] = lambda level: None) -> None:
    """Serves until SIGTERM or SIGINT. `set_up_log` is called with the level before the first line of the log. Raises
    ShadowMeshError with one clear line for what keeps it from starting."""
    first = resolve_controller(options.config, options.given())
    where = DataDir(first.config.controller.data_dir)
    made = None
    if options.config is not None and not where.config.exists():
        from shadowmesh.controller.initialise import init_configured

        require_secrets(first)
        made = init_configured(first, where)
    found = effective(options, where)
    told = configured(found, where.read(), options.timing)
    with private_files(), only_one(where):
        from shadowmesh.controller.process import run_locked

        set_up_log(told.level)
        _say(told, where, made)
        if told.moved:
            write_settings(where.config, where.read().moved_to(told.settings.public_urls, utc_now().timestamp()))
        run_locked(where, told, options.ready)


def effective(options: RunOptions, where: DataDir) -> Resolved[ControllerConfig]:
    """What the controller of a directory runs with. Raises ShadowMeshError as `resolve_controller`, `require_secrets` and `DataDir.read` do."""
    found = resolve_controller(options.config, options.given(where))
    require_secrets(found)
    return found


def _say(told: Configured, where: DataDir, made: Path | None) -> None:
    import structlog

    log = structlog.get_logger("shadowmesh.controller")
    for remark in told.remarks:
        log.warning("configuration", remark=remark)
    if made is not None:
        log.info("controller made", data_dir=str(where.path), first_administrator=str(made))
