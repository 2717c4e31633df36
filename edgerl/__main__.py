"""The command `edgerl`, and `python -m edgerl`: a signal is heard from here on, while all the rest is loaded, and so is
that there is too little memory for it."""

from __future__ import annotations

import signal
import sys

from edgerl.errors import reason
from edgerl.signals import WORDS, leave_at_once

WANTING_MEMORY = ("can't start new thread", "failed to map segment", "annot allocate memory")


def main() -> None:
    """Run the command line; see edgerl.cli."""
    for number in WORDS:
        signal.signal(number, leave_at_once)
    try:
        from edgerl.cli import main

        main()
    except Exception as error:
        wanting = _wanting_memory(error)
        if wanting is None:
            raise
        print(f"edgerl: there is too little memory ({reason(wanting)}); give this process more", file=sys.stderr)
        sys.exit(2)


def _wanting_memory(error: BaseException | None) -> BaseException | None:
    """What says that memory is wanting, at once or as the cause: a thread and a library have words of their own."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in WANTING_MEMORY):
            return error
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    main()
