"""What tests, demo and benchmarks share: tiny models, a client for the server, a test-only node pack."""
