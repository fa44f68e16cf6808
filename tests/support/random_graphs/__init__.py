"""Graphs composed by chance from ComfyUI's own nodes and from those of packs; run by scripts/graphs.py."""
