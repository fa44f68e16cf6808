"""Rank processes: their environment, interpreter, log and end."""
