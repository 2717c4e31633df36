"""Files: written whole, read with suspicion."""
