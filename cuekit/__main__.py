"""The command `cuekit`; `python -m cuekit` is the same."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import cuekit

if TYPE_CHECKING:
    from types import FrameType

# Command -> its module in cuekit.commands, which has SUMMARY (a line), EXAMPLES (the end of its
# help), add_arguments(parser) and run(arguments), which returns the exit status.
COMMANDS = {
    "labels": "labels",
    "convert": "convert",
    "eval": "evaluate",
    "sweep": "sweep",
    "calibrate": "calibrate",
    "view": "view",
    "info": "info",
}
_EPILOG = """\
exit status: 0 all is done; 1 some photos failed; 2 the request cannot be carried out;
130 and 143 stopped by Ctrl-C and by SIGTERM

`cuekit COMMAND --help` shows options and examples."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog="cuekit",
        description="Training labels for segmentation networks, from activation maps of a folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"cuekit {cuekit.__version__}")
    _add_completion(whole)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"cuekit.commands.{module_name}")
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return whole


def _add_completion(whole: argparse.ArgumentParser) -> None:
    try:
        import shtab
    except ImportError:
        whole.add_argument(
            "--print-completion",
            metavar="SHELL",
            action=_MissingCompletion,
            help="print a completion script for bash, zsh or tcsh (needs shtab)",
        )
    else:
        shtab.add_argument_to(whole, help="print a completion script")


class _MissingCompletion(argparse.Action):
    """Says how to get completion."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error("completion needs shtab: pip install 'cuekit[cli]'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):  # names of files can have any bytes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = ""
    try:
        parsed = parser().parse_args(arguments)
        command = f" {parsed.command}"
        signal.signal(signal.SIGTERM, _terminate)
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        sys.stderr.write(f"cuekit{command}: stopped by Ctrl-C{_goes_on(command)}\n")
        return 128 + signal.SIGINT
    except _TerminatedError:
        sys.stderr.write(f"cuekit{command}: stopped by SIGTERM{_goes_on(command)}\n")
        return 128 + signal.SIGTERM
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE, which Windows does not have
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"cuekit{command}: {error}\n")
        return 2


def _goes_on(command: str) -> str:
    return "; the same command goes on from there" if command == " labels" else ""


class _TerminatedError(BaseException):
    """SIGTERM has come: all blocks that clean up are left, and then the process."""


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


if __name__ == "__main__":
    sys.exit(main())
