"""Where the weights of a model lie in one rank."""

import pytest
import torch
from support.tiny_models import ModelShelf


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return ModelShelf(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def rank_patcher(shelf):
    """A tiny Flux as a rank holds it, with a LoRA's worth of patches on two blocks."""
    import comfy.sd
    from xdit_comfyui.parallel_backend.rank.store import ModelStore
    from xdit_comfyui.parallel_backend.recipe import Recipe

    path = str(shelf.models / "diffusion_models" / shelf.flux())
    store = ModelStore(torch.device("cpu"), lambda model: None)
    return store.base(Recipe(comfy.sd.load_diffusion_model, (path,)).identity())


def load(patcher):
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher])


def patched(patcher, *names: str):
    clone = patcher.clone()
    for name in names:
        shape = dict(patcher.model.named_parameters())[name].shape
        clone.add_patches({name: ("diff", (torch.ones(shape),))})
    return clone


HELD, GONE = (
    "diffusion_model.double_blocks.0.img_attn.qkv.weight",
    "diffusion_model.double_blocks.1.img_attn.qkv.weight",
)


def test_absent_modules_hold_no_memory_and_take_no_patches(rank_patcher):
    from xdit_comfyui.parallel_backend.rank.placement import Placement

    load(rank_patcher)
    weights = rank_patcher.model.xdit_weights
    everything, whole = weights.nbytes, dict(rank_patcher.model.named_parameters())[GONE].clone()
    assert weights.nbytes == weights.wanted == sum(p.nbytes for p in rank_patcher.model.parameters())
    absent = sum(p.nbytes for n, p in rank_patcher.model.named_parameters() if ".double_blocks.1." in n)

    rank_patcher.place(Placement(absent=frozenset({"double_blocks.1"})))
    assert weights.nbytes == 0, "what was held is let go"
    load(patched(rank_patcher, HELD, GONE))
    parameters = dict(rank_patcher.model.named_parameters())
    assert weights.nbytes == weights.wanted == everything - absent
    assert parameters[GONE].untyped_storage().nbytes() == 4
    assert parameters[GONE].shape == whole.shape
    assert parameters[GONE].isnan().all()
    assert weights.patched == {HELD}

    rank_patcher.place(Placement())
    load(rank_patcher)
    assert weights.nbytes == everything
    assert torch.equal(dict(rank_patcher.model.named_parameters())[GONE], whole)
