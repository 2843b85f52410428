"""The command line: `python -m loadtest run|closed|direct|siege|routing|processes|many-models|models|bench|page|triton|…`."""

from __future__ import annotations

from typing import Any

import click

from loadtest.commands import comparison, driving, questions, survey
from loadtest.doors.cli import main as doors
from loadtest.producers.cli import main as producers
from protocol.errors import FleetError


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        """Errors that say what to do need no traceback."""
        try:
            return super().invoke(context)
        except (FleetError, OSError, ModuleNotFoundError, ValueError) as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=_Commands, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load a Penstock fleet (or any V2 server) and report latencies without coordinated omission.

    \b
    Start with:
      python -m loadtest run http://127.0.0.1:8000 --model digits --rate 200
    """


for command in (
    driving.run, driving.closed, driving.direct_, driving.safety, driving.models_,
    comparison.bench, comparison.page, comparison.triton_,
    survey.survey, survey.report_, survey.disturb,
    questions.siege, questions.routing, questions.scaling, questions.processes, questions.demo, questions.first_model,
    questions.many_models,
):  # fmt: skip
    main.add_command(command)
main.add_command(producers, "producers")
main.add_command(doors, "doors")
