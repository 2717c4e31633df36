"""What a policy costs, and whether it fits a device."""
