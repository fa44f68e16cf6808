"""Flux in detail: kernels, previews, whole prompts, and errors against fp32 with LoRA and ControlNet."""
