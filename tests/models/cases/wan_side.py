"""Wan's side models, and what the base model can be given beside text."""

import torch
from support.model_case import ModelCase, randn

from .wan import build as build_wan
from .wan import inputs

SETTINGS = {
    "in_dim": 16, "dim": 256, "ffn_dim": 512, "freq_dim": 64, "text_dim": 64, "out_dim": 16, "num_heads": 4,
    "num_layers": 2, "text_len": 64,
}  # fmt: skip


def build(name, **config):
    def make(**kwargs):
        import comfy.ldm.wan.model
        import comfy.ldm.wan.model_animate
        import comfy.ldm.wan.model_wandancer

        modules = comfy.ldm.wan.model, comfy.ldm.wan.model_animate, comfy.ldm.wan.model_wandancer
        kind = next(getattr(module, name) for module in modules if hasattr(module, name))
        return kind(**SETTINGS | config, **kwargs)

    return make


def faces_remembered(build):
    """The motion encoder takes two seconds for each image, and always the same ones: once in a process.

    It comes before the blocks and no plan touches it.
    """
    motions = {}

    def make(**kwargs):
        model = build(**kwargs)
        encode = model.motion_encoder.get_motion

        def get_motion(images):
            content = images.numpy().tobytes()
            if content not in motions:
                motions[content] = encode(images)
            return motions[content].clone()

        model.motion_encoder.get_motion = get_motion
        return model

    return make


def made(*shape, seed, scale=1.0):
    return lambda: randn(*shape, seed=seed, scale=scale)


def clip(tokens=257):
    return made(1, tokens, 1280, seed=7)


def frame_timesteps():
    return randn(1, 3, seed=6).abs() * 500


def contexts():
    return [randn(1, 16, 2, 6, 8, seed=31), randn(1, 16, 1, 5, 7, seed=32)]


def block_patch():
    """A patch after each block that looks at all tokens (Uni3C's place)."""

    def patch(args):
        return {**args, "img": args["img"] + args["img"].mean(1, keepdim=True)}

    return {"patches": {"double_block": [patch]}}


VACE = build("VaceWanModel", vace_layers=2, vace_in_dim=24, num_layers=4)
CAMERA = build("CameraWanModel", in_dim=16)
ANIMATE = build("AnimateWanModel", num_layers=5)
HUMO = build("HumoWanModel")
S2V = build("WanModel_S2V", audio_dim=48, audio_inject_layers=[0, 1])
DANCER = build("WanDancerModel", audio_inject_layers=[0, 1])
SCAIL = build("SCAILWanModel")
SCAIL2 = build("SCAIL2WanModel")


def vace(count=1, batch=1, size=(3, 6, 10)):
    return {
        "vace_context": made(batch, count, 24, *size, seed=21),
        "vace_strength": lambda: [0.8, 1.3][:count],
    }  # fmt: skip


REFERENCE_FRAME = {"reference_latent": made(1, 16, 1, 6, 10, seed=8)}

CASES = [
    ModelCase(
        "wan: full reference",
        build_wan(in_dim_ref_conv=16),
        inputs(reference_latent=made(1, 16, 6, 10, seed=8)),
    ),
    ModelCase("wan: context latents", build_wan(), inputs(context_latents=contexts)),
    ModelCase(
        "wan: first and last frame to video",
        build_wan("i2v", in_dim=36, flf_pos_embed_token_number=514),
        inputs(channels=36, clip_fea=clip(514)),
    ),
    ModelCase("wan: more frames concatenated", build_wan(), inputs(time_dim_concat=made(1, 16, 2, 6, 10, seed=8))),
    ModelCase("wan: patch after each block", build_wan(), inputs(transformer_options=block_patch), modes=("auto",)),
    ModelCase("wan vace: plain", VACE, inputs(**vace())),
    ModelCase("wan vace: two controls", VACE, inputs(**vace(2))),
    ModelCase(
        "wan vace: batch 2, odd size", VACE, inputs(size=(2, 6, 14), batch=2, tokens=7, **vace(1, 2, (2, 6, 14)))
    ),
    ModelCase(
        "wan vace: patch after each block", VACE, inputs(transformer_options=block_patch, **vace()), modes=("auto",)
    ),
    ModelCase("wan camera: plain", CAMERA, inputs(clip_fea=clip(), camera_conditions=made(1, 24, 3, 48, 80, seed=9))),
    ModelCase("wan animate: plain", ANIMATE, inputs(clip_fea=clip())),
    ModelCase(
        "wan animate: pose and face",
        faces_remembered(ANIMATE),
        inputs(
            clip_fea=clip(),
            pose_latents=made(1, 16, 2, 6, 10, seed=8),
            face_pixel_values=made(1, 3, 2, 512, 512, seed=9),
        ),  # fmt: skip
    ),
    ModelCase("wan humo: plain", HUMO, inputs()),
    ModelCase("wan humo: sound", HUMO, inputs(audio_embed=made(1, 3, 8, 5, 1280, seed=9))),
    ModelCase(
        "wan humo: sound and reference",
        HUMO,
        inputs(audio_embed=made(1, 3, 8, 5, 1280, seed=9), **REFERENCE_FRAME),
    ),
    ModelCase("wan s2v: plain", S2V, inputs()),
    ModelCase("wan s2v: sound", S2V, inputs(audio_embed=made(1, 25, 48, 16, seed=9))),
    ModelCase(
        "wan s2v: sound, reference, motion and control video",
        S2V,
        inputs(
            size=(3, 8, 16),
            audio_embed=made(1, 25, 48, 16, seed=9),
            reference_latent=made(1, 16, 1, 8, 16, seed=8),
            reference_motion=made(1, 16, 19, 8, 16, seed=7),
            control_video=made(1, 16, 3, 8, 16, seed=6),
        ),  # fmt: skip
    ),
    ModelCase("wan dancer: plain", DANCER, inputs(clip_fea=clip(), clip_fea_ref=clip())),
    ModelCase(
        "wan dancer: music", DANCER, inputs(size=(3, 8, 12), clip_fea=clip(), audio_embed=made(1, 40, 35, seed=9))
    ),
    ModelCase(
        "wan dancer: music, 15 frames a second",
        DANCER,
        inputs(size=(3, 8, 12), audio_embed=made(1, 40, 35, seed=9), clip_fea=clip(), fps=15),
    ),
    ModelCase("wan scail: plain", SCAIL, inputs(clip_fea=clip())),
    ModelCase(
        "wan scail: pose and reference",
        SCAIL,
        inputs(clip_fea=clip(), pose_latents=made(1, 16, 3, 4, 6, seed=9), **REFERENCE_FRAME),
    ),
    ModelCase(
        "wan scail2: plain",
        SCAIL2,
        inputs(clip_fea=clip(), timestep=lambda: torch.full((1,), 400.0)),
    ),
    ModelCase(
        "wan scail2: pose, reference and masks",
        SCAIL2,
        inputs(
            clip_fea=clip(),
            pose_latents=made(1, 16, 3, 4, 6, seed=9),
            ref_mask_latents=made(1, 28, 4, 6, 10, seed=10),
            sam_latents=made(1, 28, 3, 4, 6, seed=12),
            ref_mask_flag=False,
            **REFERENCE_FRAME,
        ),  # fmt: skip
    ),
]
