"""Which mode a model call runs in, given its patches."""

import pytest
from xdit_comfyui.parallel_backend.sharding.engine.call_modes import Mode, mode_for
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX


def kv_cache():
    from comfy_extras.nodes_flux import KV_Attn_Input

    return KV_Attn_Input()


@pytest.mark.parametrize(
    ("options", "mode", "reason"),
    [
        ({}, Mode.PERSIST, ""),
        ({"patches": {"attn1_patch": [print], "post_input": [print]}}, Mode.PERSIST, ""),
        ({"patches": {"double_block": [print], "attn1_output_patch": [print]}}, Mode.BLOCK, ""),
        ({"patches": {"double_block": []}}, Mode.PERSIST, ""),
        ({"patches_replace": {"dit": {("double_block", 0): print}}}, Mode.BLOCK, ""),
        ({"patches_replace": {"attn1": {("double", 0): print}}}, Mode.WHOLE, "a replaced 'attn1'"),
        ({"patches": {"of_a_later_comfyui": [print]}}, Mode.WHOLE, "the patch 'of_a_later_comfyui'"),
        ({"patches": {"attn1_patch": [kv_cache]}}, Mode.WHOLE, "KV_Attn_Input changes the number of tokens"),
    ],
)
def test_a_patch_decides_the_mode(options, mode, reason):
    patches = options.get("patches", {})
    options = {**options, "patches": {name: [_made(item) for item in found] for name, found in patches.items()}}
    found, why = mode_for(FLUX, options, {})
    assert found is mode
    assert reason in why


def _made(patch):
    return kv_cache() if patch is kv_cache else patch
