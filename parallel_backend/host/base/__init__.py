"""What every room of the host may use: errors, devices, events, limits."""
