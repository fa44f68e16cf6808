"""What makes a model's calls faster without changing what they compute: compiled blocks and CUDA graphs."""
