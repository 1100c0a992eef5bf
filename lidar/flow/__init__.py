"""Scene flow out of two sweeps alone."""
