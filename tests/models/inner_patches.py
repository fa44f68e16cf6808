"""Patches inside the blocks, as graphs put them there. Each looks at all tokens: a share alone gives another result."""

import torch


def _mixed(value, dim):
    return value + 0.3 * value.mean(dim, keepdim=True)


def nag():
    """The patch that ComfyUI's Normalized Attention Guidance node puts on a MODEL."""
    from comfy_extras.nodes_nag import NAGuidance

    class Model:
        def clone(self):
            return self

        def set_model_attn1_output_patch(self, patch):
            self.patch = patch

        def disable_model_cfg1_optimization(self):
            pass

    model = Model()
    NAGuidance.execute(model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    return {"patches": {"attn1_output_patch": [model.patch]}, "cond_or_uncond": [0, 1]}


def around_joint_attention(output_too=True):
    """For blocks of Flux's kind: q, k, v are [B, H, L, D]."""

    def before(q, k, v, pe=None, attn_mask=None, extra_options=None):
        first, last = extra_options.get("img_slice", (0, q.shape[2]))
        weights = torch.linspace(0.5, 1.5, last - first)[:, None]
        v = v.clone()
        v[:, :, first:last] *= weights
        return {"q": _mixed(q, 2), "k": k, "v": v, "pe": pe.roll(1, 2)}

    def after(out, extra_options):
        return out.cumsum(1) / out.shape[1]

    patches = {"attn1_patch": [before, lambda q, k, v, **_: {"k": _mixed(k, 2)}]}
    return {"patches": patches | ({"attn1_output_patch": [after]} if output_too else {})}


def wan():
    """As MultiTalk: a map of attention is taken from q and k, and used after cross-attention."""

    def look(args):
        scores = torch.einsum("bqhd,bkhd->bqk", args["q"][:, :7], args["k"])
        args["transformer_options"]["map"] = scores.softmax(-1).mean(1)
        return _mixed(args["x"], 1)

    def use(args):
        return args["x"] * (1 + args["transformer_options"].pop("map")[..., None])

    return {"patches": {"attn1_patch": [look], "attn2_patch": [use]}}


def on_a_grid():
    """As Anima's LLLite: before the projections of attention, and before the MLP on time, height and width."""

    def self_attention(q, k, v, pe=None, attn_mask=None, extra_options=None):
        return {"q": _mixed(q, 1), "k": k, "v": v.flip(1), "pe": pe, "attn_mask": attn_mask}

    def cross_attention(q, k, v, pe=None, attn_mask=None, extra_options=None):
        return {"q": _mixed(q, 1), "k": k * 1.1, "v": v, "pe": pe, "attn_mask": attn_mask}

    def mlp(args):
        return {**args, "x": _mixed(args["x"], 3)}

    return {"patches": {"attn1_patch": [self_attention], "attn2_patch": [cross_attention], "mlp_patch": [mlp]}}
