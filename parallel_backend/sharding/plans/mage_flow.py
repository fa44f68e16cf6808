"""Mage-Flow, made of Qwen-Image's blocks."""

from dataclasses import replace

from .qwen_image import QWEN_IMAGE

MAGE_FLOW = replace(QWEN_IMAGE, model="comfy.ldm.mage_flow.model.MageFlowTransformer2DModel", stages=(), graphs=False)
