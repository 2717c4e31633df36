"""The command `edgerl`, and `python -m edgerl`: a signal is heard from here on, while all the rest is loaded."""

from __future__ import annotations

import signal

from edgerl.signals import WORDS, leave_at_once


def main() -> None:
    """Run the command line; see edgerl.cli."""
    for number in WORDS:
        signal.signal(number, leave_at_once)
    from edgerl.cli import main

    main()


if __name__ == "__main__":
    main()
