"""The MODEL that the graph holds: weightless, identified by its files, sampling through the seam."""
