"""The command line. Each command is one file, imported when it is called: `penstock --version` starts in a fraction of a second.

Decided here: flags and their environment variables (`options`), what they set (`settings`), exit codes (`exits`), and what is
printed. Interface: `main`. Invariants: an error that a user can fix is one line and an exit code, anything else a traceback; a
server imports no framework before its flags are read. Nothing but `penstock.entry` imports this package.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import click

from penstock import __version__
from penstock.cli import interrupts
from protocol.texts import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Final = {
    "serve": "Serve models in one process: no Kafka, no Redis.",
    "gateway": "Take calls over HTTP and publish them to Kafka.",
    "worker": "Drain Kafka into batches and run models.",
    "scaler": "Tell KEDA how many workers are wanted.",
    "infer": "Send one request and print the answer.",
    "models": "List, load and unload the models of a fleet, and show how far its workers are.",
    "check": "Report for every model of a repository whether it can be served, and how.",
    "new": "Write a model folder to start from.",
    "batch": "Send a file of rows, and get a file of answers.",
    "dead": "List, show, reproduce and redrive the requests that workers gave up on.",
    "status": "Show models, queues and workers on one screen, and what is wrong.",
    "topics": "Create the topics of model versions before a first worker runs.",
    "verify": "Break a fleet on purpose, and judge its promises.",
    "doctor": "Check broker, store, repository and GPUs, and say what to fix.",
    "completion": "Print what makes a shell complete commands and options.",
}
"""Every command and its line in `penstock --help`."""

COMPLETE: Final = "_PENSTOCK_COMPLETE"
"""Set while a shell asks for completions."""
_SERVERS: Final = frozenset({"serve", "gateway", "worker", "scaler"})
"""Commands that handle SIGINT themselves (`protocol.runtime.loop`); before that it ends them at once (`penstock.entry`)."""
_SERVED: Final = (".onnx", ".py", ".pt", ".pth", ".jit", ".pt2")
_BROKEN_PIPE: Final = 141
"""As a shell reports a program that SIGPIPE ended."""
_BLAS_SLEEPS: Final = "OPENBLAS_THREAD_TIMEOUT", "20"
"""NumPy's OpenBLAS starts a thread per core when it is imported, and each spins for 2^28 cycles before it sleeps: a tenth of a
second of each core at every process start. With 2^20 cycles, 0.4 ms, threads still spin between the products of one model.
"""


class Commands(click.Group):
    """The group that imports a command's file when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"penstock.cli.{cmd_name}").command
        if cmd_name not in _SERVERS and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            interrupts.handle(signal.SIGINT)  # they clean up what they started
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; an unknown one is refused with what was meant."""
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        import shlex

        from protocol.suggestions import did_you_mean

        if name.endswith(_SERVED):
            raise click.UsageError(f"'{name}' is no command; to serve a file: penstock serve {shlex.quote(name)}", ctx)
        raise click.UsageError(f"No such command '{name}'{did_you_mean(name, COMMANDS)}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands that begin so, without importing them, and the group's options."""
        from click.shell_completion import CompletionItem

        commands = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start here:  penstock serve model.onnx   (or a Triton model repository: penstock serve --model-repository DIR)",
)
@click.version_option(__version__, "-V", "--version", package_name="penstock", message="penstock %(version)s")
def group() -> None:
    """An inference worker fleet on a log: Kafka in, dynamic batches, Redis streams out; or all of it in one process."""


def main() -> None:
    """The entry point: runs a command, and turns an error that a user can fix into one line and an exit code."""
    os.environ.setdefault(*_BLAS_SLEEPS)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot show
    try:
        _run()
    except SystemExit as end:
        _flush(said=bool(end.code))
        raise
    _flush()


def _run() -> None:
    _warn_of_variables()
    if COMPLETE in os.environ:
        from penstock.cli import shells

        shells.register()
    try:
        group.main(prog_name="penstock", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        if interrupts.asked():
            interrupts.end()
        sys.exit(130)  # a question was answered with no
    except click.ClickException as exc:
        exc.show()
        if isinstance(exc, click.NoSuchOption):
            _tell_of_file_with_dash()
        sys.exit(exc.exit_code)
    except Exception as exc:
        if interrupts.asked():  # a library has made an error of its own of the interrupt
            interrupts.end()
        _end(exc)
        raise


def _tell_of_file_with_dash() -> None:
    """Say how a file is named whose name was taken for an option."""
    import shlex
    from pathlib import Path

    name = next((each for each in sys.argv[1:] if each.startswith("-") and Path(each).exists()), "")
    if name:
        click.echo(f"penstock: the file of this name is {shlex.quote(f'./{name}')}", err=True)


def _warn_of_variables() -> None:
    """Name the environment variables that look like ours and mean nothing; remove those of Kubernetes that a flag would read."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("PENSTOCK_")}
    if not ours or COMPLETE in os.environ:
        return
    from penstock.cli.variables import problems, service_links

    for name in service_links(ours):
        del os.environ[name]
    for problem in problems(ours):
        click.echo(f"penstock: {problem}", err=True)


def _flush(*, said: bool = False) -> None:
    """Flush here, so that a closed pipe (`| head -1`) can be distinguished from an error.

    Args:
        said: whether it has been said why the command failed.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        if isinstance(error, BrokenPipeError):
            sys.exit(_BROKEN_PIPE)
        if not said:
            _end(error)


def _end(error: Exception) -> None:
    """Exit with a line, if the error is one that a user can fix."""
    from penstock.cli.exits import exit_of

    if (end := exit_of(error)) is not None:
        click.echo(f"penstock: {visible(end.text, lines=True)}", err=True)
        sys.exit(end.code)
