"""Training on the workstation: TD3, Static-TD3 and DS-TD3, from configuration to run folder."""
