"""Command lines: one function each, errors as one sentence on stderr and exit code 2.

A command-line module writes one function with Typer annotations and ends with

    main = command(run)

    if __name__ == "__main__":
        sys.exit(main())

The function returns None for success or an exit code; it reports bad input by raising ValueError,
LookupError or OSError with a sentence. Tests call ``main(["--dataset", "digits"])``.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Protocol

import typer

FAILED = 2
INTERRUPTED = 130
TRACEBACK_VARIABLE = "BENCH_TRACEBACK"


class Main(Protocol):
    """An entry point."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Arguments (None: the process's own) -> exit code."""
        ...


def command(function: Callable[..., int | None]) -> Main:
    """The entry point of a Typer function.

    ``BENCH_TRACEBACK=1`` in the environment raises errors instead of shortening them.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @wraps(function)
    def interruptible(*arguments: Any, **options: Any) -> int | None:
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            return INTERRUPTED

    app.command(name=function.__module__.rpartition(".")[2])(interruptible)

    def main(arguments: Sequence[str] | None = None) -> int:
        given = None if arguments is None else list(arguments)
        try:
            return app(given, standalone_mode=False) or 0
        except (typer.TyperException, ValueError, LookupError, OSError) as error:
            if os.environ.get(TRACEBACK_VARIABLE) == "1" or not _is_a_message(error):
                raise
            print(f"error: {sentence(error)}", file=sys.stderr)
            return FAILED

    return main


def sentence(error: BaseException) -> str:
    """An error's message on one line; the operating system's errors name their file."""
    if isinstance(error, typer.TyperException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.strerror[0].lower()}{error.strerror[1:]}: {error.filename}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror[0].lower()}{error.strerror[1:]}"
    else:
        text = str(error)
    return " ".join(text.split())


def _is_a_message(error: BaseException) -> bool:
    """A bare KeyError or IndexError is a defect of ours, not a sentence for the user."""
    return not isinstance(error, KeyError | IndexError)
