"""The policy as data: its layers, its file, pruning and reduction."""
