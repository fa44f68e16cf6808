"""What ranks exchange, over which process groups and in which memory."""
