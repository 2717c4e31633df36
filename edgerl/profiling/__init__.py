"""Does a policy fit a device: exact costs, device profiles, budgets, and latency estimates that are labelled so."""
