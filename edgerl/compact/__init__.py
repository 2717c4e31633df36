"""The compact form of a policy: what is left of a masked network when nothing dead is stored."""
