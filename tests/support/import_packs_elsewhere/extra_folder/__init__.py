"""A pack in a further folder of custom nodes."""

from .sampler import ExtraFolderSampler

NODE_CLASS_MAPPINGS = {"ExtraFolderSampler": ExtraFolderSampler}
