"""The weights that a rank holds: whole, divided, or dropped to the file."""
