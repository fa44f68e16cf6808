"""The conditions and rows of one guided call on several groups of ranks."""
