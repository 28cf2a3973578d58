"""`shadowmesh template …`: settings of networks by a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.managed import connect, request
from shadowmesh.cli.network import Approval, Description, Fallback, MaxClients, P2p, Relay, Reports
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.model.templates import Template

Name = Annotated[
    str, typer.Argument(help="The template's name.", metavar="NAME", autocompletion=suggest.network_template)
]


def attach(app: typer.Typer) -> None:
    group = new_app("Settings of networks by a name: `network create NAME --template T`.")
    verb(group, "list", "template list", managed=True)(template_list)
    verb(group, "show", "template show office", managed=True)(template_show)
    verb(
        group,
        "create",
        ["template create branch --approval --max-clients 50", "template create branch --like branch-berlin"],
        managed=True,
    )(template_create)
    verb(group, "delete", "template delete branch", managed=True)(template_delete)
    verb(group, "export", "template export branch > branch.yaml", managed=True)(template_export)
    verb(group, "import", "template import branch.yaml", managed=True)(template_import)
    app.add_typer(group, name="template")


def _plain(template: Template) -> dict[str, Any]:
    return template.model_dump(mode="json") | {"settings": template.settings.model_dump(mode="json", exclude_none=True)}


def template_list(call: Call) -> None:
    """The templates: those that every controller has, then your own."""
    with connect(call) as controller:
        found = controller.template_list()
    call.done(
        "templates/1",
        {"templates": [_plain(t) for t in found]},
        lambda: table(
            ("NAME", "BUILT IN", "SETTINGS", "DESCRIPTION"),
            ([t.name, t.built_in, _settings(t), t.description] for t in found),
        ),
    )


def _settings(template: Template) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in template.settings.said().items())


def _word(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def template_show(call: Call, name: Name) -> None:
    """A template in full."""
    with connect(call) as controller:
        found = controller.template_show(name)
    call.done("template/1", _plain(found), lambda: details(_plain(found) | {"settings": _settings(found)}))


def template_create(
    call: Call,
    name: Annotated[str, typer.Argument(help="Letters, digits, ., _ and -, at most 63.", metavar="NAME")],
    about: Annotated[str, typer.Option("--about", help="A sentence about the template.")] = "",
    like: Annotated[
        str | None,
        typer.Option(
            "--like", help="This network's settings, under what is said here.", autocompletion=suggest.managed_network
        ),
    ] = None,
    description: Description = None,
    approval: Approval = None,
    max_clients: MaxClients = None,
    p2p: P2p = None,
    relay_fallback: Fallback = None,
    reports: Reports = None,
    relay: Relay = None,
) -> None:
    """Make a template. What it doesn't say is as it is without one."""
    from shadowmesh.model.templates import TemplateCreate, TemplateSettings

    said: dict[str, Any] = {
        "description": description,
        "approval": approval,
        "max_clients": max_clients,
        "p2p_enabled": p2p,
        "relay_fallback": relay_fallback,
        "reports": reports,
        "relay": relay,
    }
    said = {key: value for key, value in said.items() if value is not None}
    with connect(call) as controller:
        if like is not None:
            from shadowmesh.client_api.templatefiles import settings_like

            said = settings_like(controller.network_show(like)) | said
        made = controller.template_create(
            request(TemplateCreate, name=name, description=about, settings=request(TemplateSettings, **said))
        )
    call.done("template/1", _plain(made), f"{made.name}: {_settings(made) or 'says nothing'}")


def template_delete(call: Call, name: Name) -> None:
    """Delete a template. Networks that were made by it stay as they are."""
    with connect(call) as controller:
        controller.template_delete(name)
    call.done("template-deleted/1", {"name": name}, f"{name}: deleted")


def template_export(
    call: Call,
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="Write it there.")] = None,
) -> None:
    """Print a template as YAML (with --json as JSON), as `template import` and `apply` take it."""
    from shadowmesh.client_api.templatefiles import template_document, template_yaml

    with connect(call) as controller:
        found = controller.template_show(name)
    text = template_yaml(found)
    if out is not None:
        try:
            out.write_text(text)
        except OSError as e:
            raise ShadowMeshError("cannot_write", f"{out} can't be written ({e.strerror})", "give another place") from e
        call.done("template-file/1", {"file": str(out)}, f"written to {out}")
        return
    call.done("template-file/1", template_document(found), text.rstrip("\n"))


def template_import(
    call: Call,
    file: Annotated[
        str, typer.Argument(help="YAML or JSON, as `template export` prints it; - for stdin.", metavar="FILE")
    ],
) -> None:
    """Make the templates of a file, or change those of these names to be as it says."""
    from shadowmesh.client_api.templatefiles import read_templates

    wanted = read_templates(file)
    with connect(call) as controller:
        made = [controller.template_put(name, wish) for name, wish in wanted.items()]
    call.done(
        "templates/1",
        {"templates": [_plain(t) for t in made]},
        "\n".join(f"{t.name}: {_settings(t) or 'says nothing'}" for t in made),
    )
