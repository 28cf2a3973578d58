"""Templates of networks: settings by a name, for those that are made. Shapes of the API, and the templates that every controller has."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from shadowmesh.model.api import Answer, NetworkName, NetworkSettings, RelayName, Request, Text


class TemplateSettings(NetworkSettings):
    """What a template says of a network; what is absent is as it is without one."""

    relay: RelayName | None = None

    def said(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class TemplatePut(Request):
    """A whole template: what is absent is not said by it."""

    description: Text = ""  # of the template
    settings: TemplateSettings = TemplateSettings()


class TemplateCreate(TemplatePut):
    """A template of one's own."""

    name: NetworkName


class Template(Answer):
    """`built_in`: every controller has it; nobody changes it."""

    name: str
    description: str
    settings: TemplateSettings
    built_in: bool
    created_at: datetime | None = None
    created_by: str | None = None


BUILT_IN = {
    name: Template(name=name, description=description, settings=settings, built_in=True)
    for name, description, settings in (
        (
            "home",
            "A household: few machines, nobody is waited for",
            TemplateSettings(approval=False, code_approval=True, max_clients=25),
        ),
        (
            "office",
            "People's machines: an owner lets each one in",
            TemplateSettings(approval=True, code_approval=True, max_clients=250),
        ),
        (
            "servers",
            "Production: each machine is let in, and all is told of its connections, bytes too",
            TemplateSettings(approval=True, code_approval=True, max_clients=1000, reports="full"),
        ),
        (
            "lab",
            "Machines that come and go: nobody is waited for, also by the short code",
            TemplateSettings(approval=False, code_approval=False, max_clients=200, reports="full"),
        ),
        (
            "relayed",
            "Everything by relays: machines don't learn each other's outer addresses",
            TemplateSettings(approval=True, p2p_enabled=False, relay_fallback=True),
        ),
    )
}
