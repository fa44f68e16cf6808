"""Models without a plan whose forward launches kernels only, by its tensors' shapes: CUDA graphs of it are safe."""

KERNELS_ONLY = frozenset({"comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel"})
