"""Latency as it is measured: here, over ssh, or by a bundle on the board."""
