"""What ComfyUI's process and the ranks agree on: configuration, recipes, messages."""
