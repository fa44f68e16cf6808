"""The border to ComfyUI: what this pack uses of it that is not its public API."""
