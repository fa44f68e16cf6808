"""Calls of a FLUX.1-dev shaped transformer without a server: ComfyUI's own, this pack's and xDiT's, side by side."""
