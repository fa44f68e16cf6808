"""How bytes, file descriptors, tensors and objects travel between ComfyUI and the ranks."""
