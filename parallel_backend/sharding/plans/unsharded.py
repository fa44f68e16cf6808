"""Architectures of ComfyUI that have no plan, and why. Sampled ones are still divided by CFG and by batch."""

_AUDIO = "Audio: a track is a few thousand tokens at most, one GPU is enough."
_SHAPES = "3D: a shape is a few thousand tokens at most, one GPU is enough."

UNSHARDED: dict[str, str] = {
    "comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel": (
        "A UNet: convolutions, whose neighbouring pixels lie on other ranks, do most of its work."
    ),
    "comfy.ldm.cascade.stage_b.StageB": "A UNet of convolutions with attention at its lowest resolutions.",
    "comfy.ldm.cascade.stage_c.StageC": "A UNet of convolutions with attention, on a latent of 24 × 24.",
    "comfy.ldm.ace.model.ACEStepTransformer2DModel": f"{_AUDIO} Its attention is linear, its MLPs are convolutions.",
    "comfy.ldm.ace.ace_step15.AceStepConditionGenerationModel": f"{_AUDIO} Every other layer attends to a window.",
    "comfy.ldm.audio.dit.AudioDiffusionTransformer": _AUDIO,
    "comfy.ldm.hunyuan3d.model.Hunyuan3Dv2": _SHAPES,
    "comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain": _SHAPES,
    "comfy.ldm.triposplat.model.LatentSeqMMFlowModel": _SHAPES,
    "comfy.ldm.trellis2.model.Trellis2": (
        "3D: attention among the voxels of a shape. All voxels of a batch are one list: not by batch either."
    ),
    "comfy.ldm.minimax_music.dit.MiniMaxMusic3DiT": _AUDIO,
    "comfy.ldm.wan.model_animate2.WanAnimate2Model": (
        "Two branches whose blocks call each other's parts: each frame attends to all of the video and to one frame of"
        " the pose, which is kept whole between steps."
    ),
    "comfy.ldm.wan.ar_model.CausalWanModel": (
        "Makes a video frame by frame: it keeps whole keys and values of earlier frames, and a call has few tokens."
    ),
    "comfy.ldm.hidream_o1.model.HiDreamO1Transformer": (
        "A language model that draws: its prompt attends causally by an attention call that cannot be exchanged, and"
        " it keeps whole keys and values of the prompt between steps."
    ),
    "comfy.ldm.seedvr.model.NaDiT": (
        "Attends within windows of the video, each with its own share of the text: no attention covers all tokens."
    ),
    "comfy.ldm.depth_anything_3.model.DepthAnything3Net": "Estimates depth in one pass: nothing is sampled.",
    "comfy.ldm.rt_detr.rtdetr_v4.RTv4": "Detects objects in one pass: nothing is sampled.",
    "comfy.ldm.sam3.detector.SAM3Model": "Segments pictures in one pass: nothing is sampled.",
}

# Of them, those that the oldest supported ComfyUI does not have: since when, and their names in supported_models.
LATER: dict[str, tuple[str, tuple[str, ...]]] = {
    "comfy.ldm.wan.model_animate2.WanAnimate2Model": ("0.31", ("WAN_Animate2",)),
    "comfy.ldm.minimax_music.dit.MiniMaxMusic3DiT": ("0.33", ("MiniMaxMusic3",)),
    "comfy.ldm.trellis2.model.Trellis2": ("0.34", ("Trellis2",)),
}

# Models whose rows are one call: groups of a batch degree would each get what describes all rows.
ROWS_TOGETHER: dict[str, str] = {
    "comfy.ldm.trellis2.model.Trellis2": "the voxels of all shapes of a batch are one list",
}
