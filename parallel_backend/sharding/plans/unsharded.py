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
