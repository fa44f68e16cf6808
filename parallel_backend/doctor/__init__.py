"""The doctor: what this machine has, what does not fit, how fast its links are, and what to use on it."""
