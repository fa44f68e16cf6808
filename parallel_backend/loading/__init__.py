"""Models without their weights, and where each parameter lies in its file."""
