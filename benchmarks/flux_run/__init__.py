"""The parts of flux_gpus.py: model files, prompts, one server at a time, the report."""
