"""Anima: Cosmos Predict2 with an adapter for its text, which is done before the blocks."""

from dataclasses import replace

from .cosmos import COSMOS_PREDICT2

ANIMA = replace(COSMOS_PREDICT2, model="comfy.ldm.anima.model.Anima")
