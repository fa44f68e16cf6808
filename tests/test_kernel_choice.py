"""What an attention override is taken for: a choice of kernel costs nothing where it is PyTorch's, and keeps a ring of
two and CUDA graphs; another kernel (Sage, ComfyUI's int8) does not.
"""

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_patcher
import pytest
from xdit_comfyui.parallel_backend.sharding.foreign.kernel_choice import chosen_kernel, runs_torchs_kernel


def as_core_makes_it(function, containers=None):
    """As ModelPatcher.set_model_optimized_attention of ComfyUI from 0.33 on, which ModelAttentionBackend calls."""

    def optimized_attention_override(_, *args, **kwargs):
        return function(*args, **kwargs)

    if containers is not None:
        optimized_attention_override.container_function = containers
    return optimized_attention_override


@pytest.mark.parametrize("containers", [None, lambda *args, **kwargs: None], ids=["plain", "takes containers"])
def test_pytorch_attention_by_core_s_node_is_no_other_kernel(containers):
    override = as_core_makes_it(comfy_attention.attention_pytorch, containers)
    assert runs_torchs_kernel(override)


def test_by_this_comfyui_s_own_method():
    if not hasattr(comfy.model_patcher.ModelPatcher, "set_model_optimized_attention"):
        pytest.skip("ComfyUI has it from 0.33 on")
    patcher = comfy.model_patcher.ModelPatcher.__new__(comfy.model_patcher.ModelPatcher)
    patcher.model_options = {"transformer_options": {}}
    patcher.set_model_optimized_attention(comfy_attention.attention_pytorch)
    assert runs_torchs_kernel(patcher.model_options["transformer_options"]["optimized_attention_override"])


def test_another_kernel_of_comfyui_is_one():
    override = as_core_makes_it(comfy_attention.attention_sub_quad)
    assert chosen_kernel(override) is not None and not runs_torchs_kernel(override)


def test_a_flag_of_comfyui_that_puts_another_kernel_in_the_place_of_pytorch_s(monkeypatch):
    """--use-sage-attention and --use-ck-attention both do nothing but this."""
    monkeypatch.setattr(comfy_attention, "optimized_attention", comfy_attention.attention_pytorch)
    assert runs_torchs_kernel(None)
    monkeypatch.setattr(comfy_attention, "optimized_attention", comfy_attention.attention_sub_quad)
    assert not runs_torchs_kernel(None)
    assert runs_torchs_kernel(as_core_makes_it(comfy_attention.attention_pytorch))
