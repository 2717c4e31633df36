"""The command `edgerl`, and `python -m edgerl`: signals are handled from here on, while the rest is loaded, and so is a
lack of memory for it."""

from __future__ import annotations

import signal
import sys

from edgerl.errors import reason
from edgerl.signals import WORDS, leave_at_once

MEMORY_MESSAGES = ("can't start new thread", "failed to map segment", "annot allocate memory")


def main() -> None:
    """Run the command line; see edgerl.cli."""
    for number in WORDS:
        signal.signal(number, leave_at_once)
    try:
        from edgerl.cli import main

        main()
    except Exception as error:
        cause = _memory_error(error)
        if cause is None:
            raise
        print(f"edgerl: there is too little memory ({reason(cause)}); give this process more", file=sys.stderr)
        sys.exit(2)


def _memory_error(error: BaseException | None) -> BaseException | None:
    """The error that shows a lack of memory, itself or as a cause: threads and libraries have words of their own."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY_MESSAGES):
            return error
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    main()
