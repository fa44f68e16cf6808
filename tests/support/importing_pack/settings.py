"""What nodes of this pack set."""

factor = 0.6
