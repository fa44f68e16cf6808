"""What IPAdapter_plus puts in the place of cross-attention, in small: each condition gets a picture of its own."""

import torch
from comfy.ldm.modules.attention import optimized_attention


class Attn2Replace:
    def __init__(self, callback, **kwargs):
        self.callback = [callback]
        self.kwargs = [kwargs]

    def __call__(self, q, k, v, extra_options):
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        for callback, kwargs in zip(self.callback, self.kwargs, strict=True):
            out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out


def ipadapter_attention(out, q, k, v, extra_options, weight=0.5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(2, 4, q.shape[-1], generator=generator).to(q)
    numbers = extra_options["cond_or_uncond"]
    rows = q.shape[0] // len(numbers)
    keys = torch.cat([pictures[number : number + 1].repeat(rows, 1, 1) for number in numbers])
    return optimized_attention(q, keys, keys, extra_options["n_heads"]) * weight
