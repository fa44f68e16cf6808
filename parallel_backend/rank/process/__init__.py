"""A rank as a process: its start, its channel to the host, its signs of life, its end."""
