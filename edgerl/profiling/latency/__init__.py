"""The latency model: an estimate from costs and a device's speeds."""
