"""Tables that commands print for people."""

from __future__ import annotations


def table_lines(printed: str) -> list[str]:
    """The lines of all tables; other text begins at the left edge."""
    return [line for line in printed.splitlines() if line.startswith(" ") and line.strip()]
