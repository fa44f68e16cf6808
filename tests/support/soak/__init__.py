"""Many prompts on one server, with cancels, killed ranks and switches of models; run by scripts/soak.py."""
