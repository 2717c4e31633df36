"""Learning on the device: replay, trials, and a state that survives."""
