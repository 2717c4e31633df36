"""The command line: one thin file per command, which parses, calls the library and prints.

A module here imports nothing heavy at its top: `edgerl --help` answers at once, and each command loads what it needs.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from edgerl import __version__
from edgerl.cli import (
    cost,
    devices,
    distill,
    export,
    fit,
    import_policy,
    info,
    learn,
    play,
    profile,
    prune,
    report,
    run,
    sweep,
    table,
    train,
)
from edgerl.cli.support.command import Command
from edgerl.cli.support.outlet import outlet_of
from edgerl.cli.support.streams import give_up_results, make_streams_safe
from edgerl.errors import EdgerlError
from edgerl.files.paths import at_home, shortened
from edgerl.signals import WORDS, Terminated, ended_by_signals, signal_behind

app = typer.Typer(
    name="edgerl",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (train, cost, prune, distill, export, profile, fit, run, play, learn, table, report, info):
    app.command(_module.__name__.rpartition(".")[2], cls=Command)(_module.command)
app.command("import", cls=Command)(import_policy.command)
app.command("sweep", cls=sweep.SweepCommand)(sweep.command)
app.add_typer(devices.app, name="devices")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgerl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Sparse reinforcement-learning policies, from training to the board.

    Example, in an empty folder: edgerl train --preset quick && edgerl export --format onnx && edgerl profile --device
    jetson-nano
    """


INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command line: 0 done, 1 a check failed, 2 a usage or input error, 130 or 143 after SIGINT or SIGTERM."""
    make_streams_safe()
    if find_spec("fcntl") is None:
        _complain("edgerl needs Linux or another POSIX system, and this is none; on Windows, use WSL 2")
        sys.exit(2)
    with contextlib.ExitStack() as stack:
        sys.exit(_answered(stack))


def _answered(stack: contextlib.ExitStack) -> int:
    """The exit code of the command line; its error is printed."""
    try:
        stack.enter_context(at_home())
        with ended_by_signals():
            code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == INTERRUPTED:  # the parser turns KeyboardInterrupt into this code, silently
            raise KeyboardInterrupt
        sys.stdout.flush()
    except EdgerlError as error:
        code = error.exit_code
        _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):  # the latter is older parsers' answer to the former
        code = _left(signal.SIGINT)
    except Terminated:
        code = _left(signal.SIGTERM)
    except (SystemExit, BrokenPipeError):  # the first is the parser's answer to the other: `edgerl … | head`
        code = 0
        give_up_results()
    except OSError as error:  # a name too long, a disk that fails: what no command explains better
        code = 2
        _complain(f"{error.filename or 'input or output'}: {error.strerror}; choose another place, or free this one")
    except Exception as error:
        if number := signal_behind(error):
            code = _left(number)
        elif hasattr(error, "format_message"):  # the parser's own complaints have it; anything else is our bug
            code = 2
            _complain(error.format_message())
        else:
            raise
    return code or 0


def _left(number: int) -> int:
    """Print which signal ended the command; its exit code."""
    _complain(WORDS[number])
    return 128 + number


def _complain(message: str) -> None:
    line = shortened(" ".join(message.split()))
    # The text of a file must not control the terminal; and a reader that has left holds up nothing for long.
    with contextlib.suppress(OSError):
        print(f"edgerl: {line if line.isprintable() else ascii(line)}", file=outlet_of(sys.stderr), flush=True)
