"""The tool for authors of plans: what a model's blocks are called with, and a sharding plan that follows from it."""
