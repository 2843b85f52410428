"""`penstock completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from penstock.cli import COMPLETE, group


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete the commands, options and files of penstock.

    \b
        source <(penstock completion bash)                                       # in ~/.bashrc
        source <(penstock completion zsh)                                        # in ~/.zshrc, after compinit
        penstock completion fish > ~/.config/fish/completions/penstock.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click supports these shells"
    click.echo(kind(group, {}, "penstock", COMPLETE).source())
