"""Values of numbers, texts and choices: near a node's default, within what object_info allows, small."""

from __future__ import annotations

import random
from typing import Any

WORDS = ("a", "tiny", "house", "on", "the", "hill", "at", "night", "in", "rain")

# By "node.input" or by input: some values to choose from.
CHOICES: dict[str, tuple[Any, ...]] = {
    "start_percent": (0.0, 0.0, 0.2),
    "end_percent": (1.0, 1.0, 0.7),
    "start": (0.0, 0.2),
    "end": (1.0, 0.8),
    "pose_start": (0.0,),
    "pose_end": (1.0,),
    "denoise": (1.0, 1.0, 0.7),
    "strength": (1.0, 0.6, 0.8),
    "cfg": (2.5, 3.5),
    "x": (0, 0.2),
    "y": (0, 0.2),
    "z": (0,),
    "temporal": (1.0,),
    "sigma_min": (0.03,),
    "rho": (1.0, 7.0),
    "h_init": (0.05,),
    "rtol": (0.5,),
    "atol": (0.5,),
    "order": (2, 3),
    "pcoeff": (0.0,),
    "icoeff": (1.0,),
    "dcoeff": (0.0,),
    "accept_safety": (0.81,),
    "eta": (0.0, 0.5, 1.0),
    "s_noise": (1.0, 0.9),
    "step": (1,),
    "return_actual_sigma": (False, True),
    "add_noise": (True,),
    "reuse_threshold": (0.05, 0.2),
    "block_number": (1, 3),
    "downscale_factor": (2.0,),
    "tile_size": (8, 32),
    "ratio": (0.3, 0.5),
    "blur_sigma": (2.0,),
    "freq_cutoff": (2, 20),
    "context_schedule": ("standard_static", "standard_uniform", "looped_uniform", "batched"),
    "nag_scale": (5.0, 2.0),
    "scale_x": (1.0, 1.2),
    "scale_y": (1.0, 0.9),
    "scale_t": (1.0,),
    "shift_x": (0.0, 2.0),
    "shift_y": (0.0,),
    "shift_t": (0.0,),
    "scale_ratio": (1.0, 2.0),
    "SamplerLCMUpscale.scale_ratio": (2.0,),
    "scale_steps": (-1, 1),
    "upscale_method": ("nearest-exact", "bilinear", "bicubic"),
    "max_depth": (0, 1),
    "dtype": ("default", "fp32"),
    "device": ("default",),
    "noise_device": ("cpu", "gpu"),
    "double_layers": ("0", "1", "0, 1"),
    "single_layers": ("", "0", "0, 1"),
    "layers": ("0", "1, 2", "3"),
    "ManualSigmas.sigmas": ("1, 0.7, 0.3, 0", "0.9, 0.4, 0.0"),
    "terminal": (0.1,),
    "mu": (0.0, 0.5),
    "frame_idx": (0, 8),
    "max_shift": (1.15, 2.05),
    "base_shift": (0.5, 0.95),
    "audio_scale": (1.0,),
    "motion_frame_count": (1,),
    "previous_frame_count": (1,),
    "continue_motion_max_frames": (1,),
    "video_frame_offset": (0,),
    "num_frame_per_block": (1,),
    "tracks": ("[]",),
    "WanTrackToVideo.tracks": ('[[{"x": 10, "y": 12}, {"x": 20, "y": 20}]]',),
    "max_gpus": (2,),
    "closed_loop": (False, True),
    "split_conds_to_windows": (False, False, True),
    "freenoise": (True, False),
    "cond_retain_index_list": ("", "0"),
    "latent_retain_index_list": ("",),
    "context_stride": (1, 2),
    "ContextWindowsManual.dim": (2,),
    "ContextWindowsManual.context_length": (2,),
    "ContextWindowsManual.context_overlap": (1, 0),
    "WanContextWindowsManual.context_length": (5,),
    "WanContextWindowsManual.context_overlap": (4, 0),
    "LTXVContextWindows.context_length": (9,),
    "LTXVContextWindows.context_overlap": (8, 0),
    "SetFirstSigma.sigma": (1.0, 0.9),
    "ExtendIntermediateSigmas.start_at_sigma": (-1.0, 0.8),
    "ExtendIntermediateSigmas.end_at_sigma": (0.1, 0.3),
    "conditioning_to_strength": (0.5, 1.0),
    "multiplier": (0.7, 1.0, 0.5),
    "downscale_method": ("nearest-exact", "bilinear"),
    "backend": ("inductor",),
    "sampling": ("eps", "v_prediction", "edm", "x0", "lcm"),
    "zsnr": (False, True),
    "sharpen_radius": (1, 3),
    "fps": (6,),
    "frames": (5,),
    "text": (4, 8),
    "guidance": (3.5, 2.0),
    "ForeignCallback.at": (1,),
    "ForeignCallback.what": ("edit x", "edit x0", "raise"),
    "ForeignRaising.who": ("all",),
    "ForeignStepCallback.what": ("draw", "edit both", "edit x", "edit x0", "settings"),
    "ForeignForward.path": ("", "double_blocks.0.img_attn", "double_blocks.1", "single_blocks.0", "img_in"),
    "order_2": (False,),
    "compression": (0,),
    "ModelSamplingContinuousEDM.sigma_max": (120.0,),
    "ModelSamplingContinuousV.sigma_max": (500.0,),
    "VPScheduler.beta_d": (2.0,),
    "LTXVAddGuide.strength": (1.0, 0.5),
    "generate_audio_codes": (False,),
    "max_stage": (3,),
}


def number(name: str, whole: bool, options: dict[str, Any], chance: random.Random) -> float:
    """Near the default; where that is 0, up to 0.3 of what is allowed below 1."""
    default = options.get("default") or 0
    lowest, highest = options.get("min", default), options.get("max", max(default, 1))
    if whole:
        return int(default) if default or lowest is None else max(0, lowest)
    spread = chance.uniform(0.7, 1.3)
    value = default * spread if default else chance.choice((0.0, 0.3 * min(highest or 1.0, 1.0)))
    return round(min(max(value, lowest or 0.0), highest if highest is not None else value), 3)


def plain_value(node: str, name: str, kind: Any, options: dict[str, Any], chance: random.Random) -> Any:
    """Of an INT, FLOAT, BOOLEAN, STRING or COMBO. `node`: its class, `name`: of the input."""
    choices = CHOICES.get(f"{node}.{name}", CHOICES.get(name))
    listed = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    if choices is not None:
        allowed = [value for value in choices if listed is None or value in listed]
        if allowed and (kind != "INT" or all(isinstance(value, int) for value in allowed)):
            return chance.choice(allowed)
    if listed is not None:
        return chance.choice(listed)
    if kind == "BOOLEAN":
        return chance.random() < 0.5
    if kind == "STRING" and isinstance(options.get("default"), str):
        return options["default"]
    if kind == "STRING":
        return " ".join(chance.sample(WORDS, chance.randint(1, 5)))
    return number(name, kind == "INT", options, chance)
