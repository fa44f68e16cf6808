"""What nodes put into a model call, and what therefore has to stay whole."""
