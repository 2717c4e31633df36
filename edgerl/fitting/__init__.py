"""The smallest policy that fits a device and keeps its return: candidates, their prices, their measured returns."""
