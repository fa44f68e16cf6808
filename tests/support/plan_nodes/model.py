"""An architecture that neither ComfyUI nor xDiT knows, as a node pack brings one: its transformer, and its loader."""

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention

CHANNELS, WIDTH, HEADS, CONTEXT = 16, 64, 4, 48
LAYERS = 2


def heads_first(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def turned(x, pe):
    """x [B, H, L, D], turned by the angles pe [1, L, D / 2]."""
    angles = pe[:, None]
    even, odd = x.chunk(2, -1)
    return torch.cat((even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()), -1)


class TextImageBlock(torch.nn.Module):
    """Text and image apart, together in attention, text first."""

    def __init__(self, operations, **factory):
        super().__init__()
        self.img_qkv = operations.Linear(WIDTH, 3 * WIDTH, **factory)
        self.txt_qkv = operations.Linear(WIDTH, 3 * WIDTH, **factory)
        self.img_out = operations.Linear(WIDTH, WIDTH, **factory)
        self.txt_out = operations.Linear(WIDTH, WIDTH, **factory)

    def forward(self, img, txt, vec, pe, transformer_options=None):
        apart = self.txt_qkv(txt), self.img_qkv(img)
        qkv = [torch.cat(pair, 1) for pair in zip(*(x.chunk(3, -1) for x in apart), strict=True)]
        q, k, v = (heads_first(x) for x in qkv)
        out = optimized_attention(
            turned(q, pe), turned(k, pe), v, HEADS, skip_reshape=True, transformer_options=transformer_options
        )
        length = txt.shape[1]
        return img + vec * self.img_out(out[:, length:]), txt + vec * self.txt_out(out[:, :length])


class CrossAttention(torch.nn.Module):
    def __init__(self, operations, **factory):
        super().__init__()
        self.q = operations.Linear(WIDTH, WIDTH, **factory)
        self.kv = operations.Linear(CONTEXT, 2 * WIDTH, **factory)

    def forward(self, x, context, transformer_options=None):
        k, v = self.kv(context).chunk(2, -1)
        return optimized_attention(self.q(x), k, v, HEADS, transformer_options=transformer_options)


class SequenceBlock(torch.nn.Module):
    """One sequence, and cross-attention to the text as it came in."""

    def __init__(self, operations, **factory):
        super().__init__()
        self.qkv = operations.Linear(WIDTH, 3 * WIDTH, **factory)
        self.cross = CrossAttention(operations, **factory)
        self.out = operations.Linear(WIDTH, WIDTH, **factory)

    def forward(self, x, vec, pe, context, transformer_options=None):
        q, k, v = (heads_first(part) for part in self.qkv(x).chunk(3, -1))
        attended = optimized_attention(
            turned(q, pe), turned(k, pe), v, HEADS, skip_reshape=True, transformer_options=transformer_options
        )
        x = x + vec * self.out(attended)
        return x + self.cross(x, context, transformer_options)


class Transformer(torch.nn.Module):
    def __init__(self, dtype=None, device=None, operations=None, **_):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.dtype, self.num_heads = dtype, HEADS
        self.img_in = operations.Linear(CHANNELS * 4, WIDTH, **factory)
        self.txt_in = operations.Linear(CONTEXT, WIDTH, **factory)
        self.joint = torch.nn.ModuleList(TextImageBlock(operations, **factory) for _ in range(LAYERS))
        self.single = torch.nn.ModuleList(SequenceBlock(operations, **factory) for _ in range(LAYERS))
        self.final = operations.Linear(WIDTH, CHANNELS * 4, **factory)

    def forward(self, x, timesteps, context, control=None, transformer_options=None, **kwargs):
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        patches = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5)
        img = self.img_in(patches.flatten(1, 2).flatten(2))
        txt = self.txt_in(context)
        vec = torch.cos(timesteps * 3)[:, None, None].to(img.dtype)
        places = torch.arange(txt.shape[1] + img.shape[1], device=x.device, dtype=img.dtype)
        pe = places[None, :, None] / torch.arange(1, WIDTH // HEADS // 2 + 1, device=x.device, dtype=img.dtype)
        for block in self.joint:
            img, txt = block(img, txt, vec, pe, transformer_options=transformer_options)
        sequence = torch.cat((txt, img), 1)
        for block in self.single:
            sequence = block(sequence, vec, pe, context, transformer_options=transformer_options)
        out = self.final(sequence[:, txt.shape[1] :])
        out = out.unflatten(1, (height, width)).unflatten(3, (CHANNELS, 2, 2)).permute(0, 3, 1, 4, 2, 5)
        return out.flatten(4).flatten(2, 3)


class OtherForward(Transformer):
    """Another class, so another architecture: its plan names what it has not."""


ARCHITECTURES = {cls.__name__: cls for cls in (Transformer, OtherForward)}


class Config(comfy.supported_models_base.BASE):
    unet_config = {}
    latent_format = comfy.latent_formats.SD3
    memory_usage_factor = 1.0


def load(path, architecture, disable_dynamic=False):
    """The recipe: what ComfyUI and every rank calls."""
    config = Config({"dtype": torch.float32})
    config.manual_cast_dtype = None
    model = comfy.model_base.BaseModel(
        config, comfy.model_base.ModelType.FLOW, device=None, unet_model=ARCHITECTURES[architecture]
    )
    model.load_model_weights(comfy.utils.load_torch_file(path))
    patcher = comfy.model_patcher.ModelPatcher(
        model, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    )
    patcher.cached_patcher_init = (load, (path, architecture))
    return patcher
