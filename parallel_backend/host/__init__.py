"""The side that runs inside ComfyUI: the weightless MODEL, the seam, the handle on the process group."""
