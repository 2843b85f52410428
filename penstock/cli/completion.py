"""`penstock completion`."""

from __future__ import annotations

import click

from penstock.cli import COMPLETE, group, shells


@click.command()
@click.argument("shell", type=click.Choice(shells.SHELLS))
def command(shell: str) -> None:
    """Print what makes SHELL complete the commands, options and files of penstock.

    \b
        source <(penstock completion bash)                                       # in ~/.bashrc
        source <(penstock completion zsh)                                        # in ~/.zshrc, after compinit
        penstock completion fish > ~/.config/fish/completions/penstock.fish
    """
    click.echo(shells.script(shell, group, "penstock", COMPLETE))
