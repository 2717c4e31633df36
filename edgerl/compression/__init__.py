"""The search for a policy that fits a device."""
