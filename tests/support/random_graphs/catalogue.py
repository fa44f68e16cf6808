"""ComfyUI's nodes that take or give MODEL, CONDITIONING, GUIDER, SAMPLER or SIGMAS: what each is drawn for, or why not.

Every one that a ComfyUI lists is in one of these tables, or needs no entry: `roles` tells what it can be drawn as.
"""

from __future__ import annotations

from typing import Any

from .families import FAMILIES, MAIN

TYPES = ("MODEL", "CONDITIONING", "GUIDER", "SAMPLER", "SIGMAS")
FOREIGN_PACK = "custom_nodes.xdit-test-foreign"
UNETS, WAN, IMAGES = ("sdxl",), ("wan", "wan i2v"), ("flux", "sd3", "sdxl")

FITS: dict[str, tuple[str, ...]] = {
    # patches of UNets
    **dict.fromkeys(
        [
            "FreeU", "FreeU_V2", "HyperTile", "TomePatchModel", "SelfAttentionGuidance", "PatchModelAddDownscale",
            "UNetSelfAttentionMultiply", "UNetCrossAttentionMultiply", "UNetTemporalAttentionMultiply",
            "PerturbedAttentionGuidance", "HypernetworkLoader", "GLIGENTextBoxApply", "unCLIPConditioning",
            "SD_4XUpscale_Conditioning", "StableCascade_StageB_Conditioning", "CLIPTextEncodeSDXL",
            "CLIPTextEncodeSDXLRefiner", "ModelMergeSD1", "ModelMergeSD2", "ModelMergeSDXL", "SDTurboScheduler",
            "AlignYourStepsScheduler",
        ],
        UNETS,
    ),
    # of one architecture each
    **dict.fromkeys(["SkipLayerGuidanceSD3", "ControlNetApplySD3", "CLIPTextEncodeSD3"], ("sd3",)),
    **dict.fromkeys(["ModelMergeSD3_2B", "ModelMergeSD35_Large"], ("sd3",)),
    **dict.fromkeys(["SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple"], ("flux", "sd3")),
    **dict.fromkeys(
        [
            "ModelMergeFlux1", "ModelMergeAuraflow", "ModelMergeCosmos14B", "ModelMergeCosmos7B", "ModelMergeKrea2",
            "ModelMergeCosmosPredict2_14B", "ModelMergeCosmosPredict2_2B", "ModelMergeMochiPreview",
            "ModelMergeQwenImage", "USOStyleReference", "CLIPTextEncodeFlux", "TorchCompileModel",
            "ModelSamplingFlux", "ChromaRadianceOptions",
        ],
        ("flux",),
    ),
    **dict.fromkeys(["FluxKVCache", "Flux2Scheduler", "FluxKontextMultiReferenceLatentMethod"], ("flux", "flux2")),
    "ReferenceLatent": ("flux", "flux2", "wan"),
    "ModelMergeWAN2_1": ("wan",),
    **dict.fromkeys(["ModelMergeSimple", "ModelMergeAdd", "ModelMergeSubtract", "ModelMergeBlocks"], MAIN),
    "ModelMergeLTXV": ("ltx-2",),
    "RenormCFG": ("lumina 2", "flux"),
    "CLIPTextEncodeLumina2": ("lumina 2",),
    "NAGuidance": ("flux", "wan", "sdxl", "ltx-2"),
    "ScaleROPE": ("flux", "wan", "lumina 2"),
    "ContextWindowsManual": ("wan", "ltx-2"),
    "WanContextWindowsManual": ("wan",),
    "WanUni3CControlnetApply": ("wan",),
    "WanInfiniteTalkToVideo": ("wan i2v",),
    "WanVaceToVideo": ("wan vace",),
    **dict.fromkeys(["ARVideoI2V", "SamplerARVideo"], ("wan causal",)),
    **dict.fromkeys(
        [
            "BerniniConditioning", "Wan22FunControlToVideo", "WanAnimateToVideo", "WanCameraImageToVideo",
            "WanDancerVideo", "WanFirstLastFrameToVideo", "WanFunControlToVideo", "WanFunInpaintToVideo",
            "WanHuMoImageToVideo", "WanImageToVideo", "WanMoveTrackToVideo", "WanPhantomSubjectToVideo",
            "WanSCAILToVideo", "WanSoundImageToVideo", "WanSoundImageToVideoExtend", "WanTrackToVideo",
            "Kandinsky5ImageToVideo", "VOIDInpaintConditioning",
        ],
        WAN,
    ),
    **dict.fromkeys(["Hunyuan3Dv2Conditioning", "Hunyuan3Dv2ConditioningMultiView"], ("wan",)),
    **dict.fromkeys(
        [
            "SVD_img2vid_Conditioning", "SV3D_Conditioning", "StableZero123_Conditioning",
            "StableZero123_Conditioning_Batched",
        ],
        ("wan",),
    ),
    "ModelNoiseScale": ("sd3", "wan"),
    **dict.fromkeys(
        [
            "HunyuanImageToVideo", "HunyuanRefinerLatent", "HunyuanVideo15ImageToVideo",
            "HunyuanVideo15SuperResolution", "TextEncodeHunyuanVideo_ImageToVideo",
        ],
        ("hunyuan video",),
    ),
    **dict.fromkeys(
        [
            "LTXVAddGuide", "LTXVConditioning", "LTXVContextWindows", "LTXVCropGuides", "LTXVImgToVideo",
            "LTXVReferenceAudio", "LTXVScheduler", "ModelSamplingLTXV",
        ],
        ("ltx-2",),
    ),
    **dict.fromkeys(["ControlNetApply", "ControlNetApplyAdvanced", "ControlNetInpaintingAliMamaApply"], IMAGES),
    **dict.fromkeys(["InpaintModelConditioning", "InstructPixToPixConditioning"], IMAGES),
    **dict.fromkeys(["LoraLoader", "LoraLoaderModelOnly", "LoraLoaderBypass", "LoraLoaderBypassModelOnly"], MAIN),
    "LoraModelLoader": MAIN,
    "ConditioningSetAreaPercentageVideo": ("wan",),
    "StyleModelApply": ("flux",),
    "PiDConditioning": ("flux",),
    # foreign
    "ForeignForwardSwap": ("flux", "wan"),
    "ForeignInPlace": ("flux", "wan"),
    "ForeignBoundMethod": ("wan",),
    "ForeignRegionalAttention": ("flux",),
    "ForeignGlobalFunction": ("flux",),
    **dict.fromkeys(
        [
            "ForeignRunsModel", "ForeignUses", "ForeignLooks", "ForeignReplaces", "ForeignChanges", "ForeignHolder",
            "ForeignCompiledBlocks", "ForeignConditioning", "ForeignCallCounter", "ForeignForward", "ForeignPeek",
        ],
        ("flux",),
    ),
    **dict.fromkeys(["ForeignMixingReplacement", "ForeignIPAdapter"], UNETS),
    "ForeignMixingPatch": ("sdxl", "flux"),
    "ForeignMixingForward": ("wan",),
    "ForeignDirect": IMAGES,
}  # fmt: skip

FILES = "needs a file that cannot be tiny"
DETECTS = "runs a detection model itself; nothing is sampled"
WRITES = "writes a file or trains; nothing is sampled"
DATA = "reads or writes a data set for training"
EXCEPTIONS: dict[str, str] = {
    "AnimaLLLiteApply": f"{FILES}: a control for Anima",
    "SUPIRApply": f"{FILES}: SUPIR",
    "QwenImageDiffsynthControlnet": f"{FILES}: a control for Qwen-Image",
    "ZImageFunControlnet": f"{FILES}, 1 GB; in tests/test_wide_models.py",
    "CheckpointLoader": "an old form of CheckpointLoaderSimple that needs a configuration file",
    "DiffusersLoader": f"{FILES}: text encoders",
    "ImageOnlyCheckpointLoader": f"{FILES}: CLIP vision",
    "unCLIPCheckpointLoader": f"{FILES}: CLIP vision",
    "DiffControlNetLoader": f"{FILES}: a ControlNet stored as the difference to SD 1.5",
    "PhotoMakerEncode": f"{FILES}: PhotoMaker",
    "SeedVR2Conditioning": f"{FILES}: SeedVR2",
    "LotusConditioning": "a fixed tensor that fits Lotus' UNet only",
    "TripoSplatConditioning": f"{FILES}: DINOv3",
    "TripoSplatSamplingPreview": f"{FILES}: TripoSplat's VAE; a preview only",
    "MiniMaxH3ImageToVideo": f"{FILES}: MiniMax H3's text encoder",
    "MiniMaxH3ReferenceToVideo": f"{FILES}: MiniMax H3's text encoder",
    "HiDreamO1PatchSeamSmoothing": f"{FILES}: HiDream O1",
    "RTDETR_detect": DETECTS,
    "SAM3_Detect": DETECTS,
    "SAM3_VideoTrack": DETECTS,
    "SDPoseKeypointExtractor": DETECTS,
    "CheckpointSave": WRITES,
    "ImageOnlyCheckpointSave": WRITES,
    "LoraSave": WRITES,
    "ModelSave": WRITES,
    "TrainLoraNode": WRITES,
    "SaveTrainingDataset": DATA,
    "LoadTrainingDataset": DATA,
    "MakeTrainingDataset": DATA,
    "ResolutionBucket": DATA,
    "ForeignGlobalCleanup": "undoes ForeignGlobalFunction; run after each graph that holds that one",
    "ForeignReplacesNothing": "undoes ForeignReplaces; run after each graph that holds that one",
}
FRAME = {  # in every graph, or drawn as the way a graph samples
    "UNETLoader", "KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced", "BasicGuider",
    "BasicScheduler", "KSamplerSelect", "CheckpointLoaderSimple",
}  # fmt: skip
# Drawn as an input of another node.
HELPERS = {"GetICLoRAParameters", "SamplingPercentToSigma", "ForeignControlNet"}
# Change ComfyUI's process beyond their graph; what undoes it.
LEAVES_TRACES = ("ForeignInPlace", "ForeignGlobalFunction", "ForeignReplaces", "ForeignChanges")
UNDO = ("ForeignGlobalCleanup", "ForeignReplacesNothing")
# Come after the sampler, and tell what another node of the graph collected.
AFTER = {"ForeignCollected": "ForeignCollector", "ForeignModuleStateRead": "ForeignModuleState"}
WITHOUT_RANKS = {"ForeignRunsModel", "ForeignUses", "ForeignLooks"}  # use the model themselves
COMPILING = {"TorchCompileModel", "ForeignCompiledBlocks"}


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any], bool]]:
    """Of a node in object_info: input → (type, options, required)."""
    found = {}
    for section in ("required", "optional"):
        for name, value in (info["input"].get(section) or {}).items():
            found[name] = (value[0], value[1] if len(value) > 1 else {}, section == "required")
    return found


def outputs_of(info: dict[str, Any]) -> list[str]:
    return [kind if isinstance(kind, str) else "COMBO" for kind in info["output"]]


def role_of(info: dict[str, Any]) -> str:
    """What a node is drawn as: "model", "conditioning", "guider", "sampler", "sigmas", "latent", "samples", "after", or
    "".
    """
    takes = {kind for kind, _, _ in inputs_of(info).values() if isinstance(kind, str)}
    gives = outputs_of(info)
    for kind, role in (("GUIDER", "guider"), ("SAMPLER", "sampler"), ("SIGMAS", "sigmas")):
        if kind in gives:
            return role
    if "MODEL" in gives:
        return "model" if "MODEL" in takes else ""
    if "CONDITIONING" in gives:
        return "conditioning"
    if "LATENT" in gives:
        return "latent" if "SIGMAS" in takes else "samples" if "MODEL" in takes else "after"
    return ""


def listed(object_info: dict[str, Any]) -> list[str]:
    """ComfyUI's own nodes of these types, then all foreign ones, in an order that does not change."""
    own, foreign = [], []
    for name, info in object_info.items():
        kinds = {kind for kind, _, _ in inputs_of(info).values() if isinstance(kind, str)} | set(outputs_of(info))
        if info["python_module"] == FOREIGN_PACK:
            foreign.append(name)
        elif not info["python_module"].startswith("custom_nodes") and kinds & set(TYPES):
            own.append(name)
    return [*sorted(own), *sorted(foreign)]


def drawn(object_info: dict[str, Any]) -> list[str]:
    """Those that are drawn into graphs, one after the other."""
    return [name for name in listed(object_info) if name not in {*EXCEPTIONS, *FRAME, *HELPERS}]


def unplaced(object_info: dict[str, Any]) -> list[str]:
    """Those of which nothing says what they could be drawn as, nor why they are not."""
    return [name for name in drawn(object_info) if not role_of(object_info[name])]


def families_for(name: str) -> tuple[str, ...]:
    return FITS.get(name, MAIN)


assert all(name in FAMILIES for fitting in FITS.values() for name in fitting)
