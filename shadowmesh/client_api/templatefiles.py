"""Templates of networks as files: YAML, as `template export` writes it and `template import` and `apply` take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shadowmesh.client_api.desiredstate import desired_state
from shadowmesh.client_api.yamldocument import YamlDocument, yaml_text
from shadowmesh.model.api import Network
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.templates import Template, TemplatePut, TemplateSettings


def template_document(template: Template) -> dict[str, Any]:
    settings = template.settings.model_dump(mode="json", exclude_none=True)
    return {"templates": {template.name: {"description": template.description, "settings": settings}}}


def template_yaml(template: Template) -> str:
    return yaml_text(template_document(template))


def read_templates(file: str) -> Mapping[str, TemplatePut]:
    """Of a path, or `-`: stdin. Raises ShadowMeshError: no_file, bad_file, no_templates."""
    document = YamlDocument.read(file)
    document.mapping((), document.value, ("schema", "templates"))
    wanted = desired_state(document).templates
    if not wanted:
        raise ShadowMeshError(
            "no_templates",
            f"{document.name} has no templates",
            "`shadowmesh template export` shows the form",
            kind=Kind.USAGE,
        )
    return wanted


def settings_like(network: Network) -> dict[str, Any]:
    """A network's settings, as a template says them."""
    values = network.model_dump()
    return {key: values[key] for key in TemplateSettings.model_fields if values[key] is not None}
