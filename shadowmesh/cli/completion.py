"""`shadowmesh completion SHELL`, and what the shells then ask."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, verb
from shadowmesh.model.errors import Kind, ShadowMeshError

VARIABLE = "_SHADOWMESH_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def attach(app: typer.Typer) -> None:
    verb(
        app,
        "completion",
        [
            "completion bash > /etc/bash_completion.d/shadowmesh",
            "completion fish > ~/.config/fish/completions/shadowmesh.fish",
        ],
    )(completion)


def completion(
    call: Call,
    shell: Annotated[
        str,
        typer.Argument(help="bash, zsh or fish.", metavar="SHELL", autocompletion=suggest.words("bash", "zsh", "fish")),
    ],
) -> None:
    """Print what makes a shell complete verbs and options: `source <(shadowmesh completion bash)`."""
    from typer._completion_shared import get_completion_script

    if shell not in SHELLS:
        raise ShadowMeshError(
            "unknown_shell", f"no completion for {shell!r}", "there is bash, zsh and fish", kind=Kind.USAGE
        )
    script = get_completion_script(prog_name="shadowmesh", complete_var=VARIABLE, shell=shell)
    call.done("completion/1", {"shell": shell, "script": script}, script)


def prepare() -> list[str]:
    """Makes ready to answer a shell. Returns the verb that is being completed, if its word is whole already."""
    from typer._completion_classes import completion_init

    completion_init()
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    return words[1:2] if len(words) > 2 or line.endswith(" ") else []
