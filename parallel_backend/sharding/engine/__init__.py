"""How it is split: hooks on an unmodified model's blocks, for one model call at a time."""
