"""What people and programs see of the process group, and what they may do to it."""
