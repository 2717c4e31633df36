"""`python -m edgerl`."""

from edgerl.cli import main

main()
