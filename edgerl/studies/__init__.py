"""Studies: grids of runs, on this machine or a Ray cluster, and the statistics of their returns."""
