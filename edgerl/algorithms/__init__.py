"""The algorithms, each on two engines, and the topology of their networks."""
