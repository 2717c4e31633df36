"""Environments and robots to train in: made, named, drifting, filmed."""
