"""The command line: one thin function per command, one place for errors and exit codes."""

from __future__ import annotations

import errno
import gc
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from autopeft import __version__
from autopeft.cli import (
    calibrate,
    capacity,
    compare,
    doctor,
    estimate,
    export,
    lists,
    methods,
    plan,
    profile,
    recipe,
    report,
    run,
    search,
    serve,
    spaces,
    sync,
    token,
    ui,
    verify,
)
from autopeft.cli.exits import Exit, exit_code
from autopeft.cli.flags import with_verbose

app = typer.Typer(
    name="autopeft",
    help="Plan, search and export the PEFT configuration that fits a GPU, a time and your data.",
    epilog="Try it: autopeft run --demo",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)

_JOURNEY, _STAGES, _LISTS, _CARE = "The whole journey", "Each stage alone", "What there is", "Care"
_SERVICE = "For a team"
_COMMANDS = {
    _JOURNEY: (run.run,),
    _STAGES: (
        profile.profile,
        calibrate.calibrate,
        estimate.estimate,
        plan.plan,
        capacity.capacity,
        search.search,
        export.export,
        verify.verify,
        recipe.recipe,
        report.report,
        compare.compare,
    ),
    _LISTS: (lists.models, methods.methods, lists.gpus, spaces.spaces),
    _SERVICE: (serve.serve, token.token),
    _CARE: (doctor.doctor, sync.sync, ui.ui),
}
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(with_verbose(_command))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autopeft {__version__}")
        raise typer.Exit


@app.callback()
def _begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None and not version:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wanted (`autopeft gpus | head`): leave quietly, and keep the
        # interpreter from complaining when it flushes the closed pipe once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.DONE
    if arguments is None:
        gc.freeze()  # the interpreter's end would look for garbage among all of torch for seconds
    sys.exit(int(code))


def _run(arguments: list[str]) -> int:
    """Run one command and turn every expected error into one line on stderr."""
    _quieten()
    try:
        code = app(args=arguments, prog_name="autopeft", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "autopeft"
        _complain(f"{error.format_message().rstrip('.')} (see {command} --help)")
        return Exit.BAD_REQUEST
    except BrokenPipeError:
        raise
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        if logging.getLogger("autopeft").isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        _complain(_words(error))
        return code
    if code == Exit.INTERRUPTED:
        _complain(_how_to_resume(arguments))
    return int(code or Exit.DONE)


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        way_out = "Name" if error.errno == errno.ENAMETOOLONG else "Free some space or name"
        return f"{error.filename or 'the system'}: {error.strerror}. {way_out} another place."
    return str(error)


def _complain(message: str) -> None:
    """Write one line on stderr, whatever line breaks a library put into the message."""
    sys.stderr.write(f"autopeft: {' '.join(message.split())}\n")


def _how_to_resume(arguments: list[str]) -> str:
    if not {"run", "search"} & set(arguments):
        return "interrupted."
    again = arguments if "--resume" in arguments else [*arguments, "--resume"]
    return f"interrupted; finished trials are kept. Go on with: {shlex.join(['autopeft', *again])}"


def _quieten() -> None:
    """Keep the chatter of libraries off the screen, unless the user asked python for it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What quantisers say of kernels that this build of them lacks.
    logging.getLogger("autopeft").setLevel(logging.NOTSET)  # --verbose of a run before is over
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
