"""Hidden states on their way from one pipeline stage to the next."""
