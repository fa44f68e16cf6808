"""One request in a rank: read, made the same on all ranks, sampled."""
