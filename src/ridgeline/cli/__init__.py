"""The command line. Heavy imports happen where they are needed.

A command is a module here with `run(words) -> exit code`, and a line in `COMMANDS`.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ridgeline.cli.usage import USAGE
from ridgeline.cli.words import nearest
from ridgeline.errors import RidgelineError, Stopped, UsageError

COMMANDS = {
    "train": "train",
    "resume": "resume",
    "evaluate": "evaluate",
    "check-env": "check_env",
    "verify": "verify",
    "list": "listing",
    "doctor": "doctor",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; leaves with the exit code of the contract."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(USAGE)
            sys.exit(0 if words else 2)
        if words[0] == "--version":
            from importlib import metadata

            print(metadata.version("ridgeline"))
            sys.exit(0)
        if words[0] not in COMMANDS:
            raise UsageError(f"no command {words[0]!r}: {nearest(words[0], list(COMMANDS))}")
        command = importlib.import_module(f"ridgeline.cli.{COMMANDS[words[0]]}")
        sys.exit(command.run(words[1:]))
    except RidgelineError as error:
        _fail(" ".join(str(error).split("\n")), error.exit_code)
    except Stopped as stop:
        _fail(f"stopped by {stop}", 128 + stop.number)
    except KeyboardInterrupt:
        _fail("stopped by SIGINT", 130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if os.environ.get("RIDGELINE_TRACEBACK"):
            raise
        text = " ".join(str(error).split())[:300]
        _fail(f"internal error: {type(error).__name__}: {text} (RIDGELINE_TRACEBACK=1 shows where)", 1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ridgeline: {message}", file=sys.stderr)
    sys.exit(code)
