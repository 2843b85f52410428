"""`python -m infra.kubernetes`: build a control plane, and run it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from infra.kubernetes import programs
from infra.kubernetes.plane import STACKS, plane
from infra.local.running import as_message, folder_until_interrupted, watch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A real Kubernetes control plane on this machine, without containers. Pods are accepted and scheduled, and never run."""


@main.command()
@click.option(
    "--within", type=click.FloatRange(min=0), default=4 * programs.BUILD_TIMEOUT, show_default=True,
    help="Seconds for all builds; what does not fit is named and left out.",
)  # fmt: skip
def fetch(within: float) -> None:
    """Download helm and kubectl, and build the rest: many minutes the first time, then nothing."""
    until = time.monotonic() + within
    with as_message():
        print(f"helm and kubectl are {programs.helm()} and {programs.kubectl()}", flush=True)
        for program in programs.BUILDS:
            try:
                path = programs.built(program, say=_say, within=min(programs.BUILD_TIMEOUT, until - time.monotonic()))
            except programs.OutOfTime:
                _say(
                    f"LEFT OUT: {program} is not built, since its time is up: {within:.0f} s for all builds (--within)"
                )
            else:
                _say(f"{program} is {path}")


def _say(line: str) -> None:
    print(line, flush=True)


@main.command()
@click.option(
    "--stack",
    type=click.Choice(list(STACKS)),
    default="nodes",
    show_default=True,
    help="The API server alone, or controllers and made-up nodes, too.",
)
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep data and logs here. [a temporary folder]"
)
def up(stack: str, data_dir: Path | None) -> None:
    """Run it until Ctrl-C, and print how to reach it."""
    with (
        folder_until_interrupted(data_dir, "penstock-kubernetes-") as folder,
        plane(folder, stack, say=print) as running,
    ):
        print(f"export KUBECONFIG={running.kubeconfig}\n{programs.kubectl()} get nodes", flush=True)
        watch(running.servers)


if __name__ == "__main__":
    main(prog_name="python -m infra.kubernetes")
