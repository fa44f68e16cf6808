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
    from xdit_comfyui.parallel_backend.contract.recipe import Recipe
    from xdit_comfyui.parallel_backend.rank.weights.model_store import ModelStore

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
    from xdit_comfyui.parallel_backend.rank.weights.placement import Placement

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


def test_a_model_that_fails_half_patched_is_let_go(rank_patcher, monkeypatch):
    from xdit_comfyui.parallel_backend.rank.weights.model_weights import Weights

    weights, write = rank_patcher.model.xdit_weights, Weights.write
    plain = dict(rank_patcher.model.named_parameters())[HELD].clone()

    def failing(self, name, tensor):
        if self.patched:
            raise torch.OutOfMemoryError("no memory for the second patch")
        write(self, name, tensor)

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(Weights, "write", failing)
        load(patched(rank_patcher, HELD, GONE))
    assert weights.nbytes == 0 and not weights.patched
    load(patched(rank_patcher, GONE))
    assert weights.patched == {GONE}
    assert torch.equal(dict(rank_patcher.model.named_parameters())[HELD], plain)


def unit_of(index: int, count: int):
    """Three parameters, of which one is cast, as a unit of `count` cuts."""
    from xdit_comfyui.parallel_backend.loading.parameter_source import Stored
    from xdit_comfyui.parallel_backend.rank.weights.flat_block import Unit

    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Module()
    sources = {
        "one": (torch.randn(7, 33, generator=generator), None),
        "two": (torch.randn(129, generator=generator), torch.bfloat16),
        "three": (torch.randn(64, 5, generator=generator).to(torch.float8_e4m3fn).t(), None),  # not contiguous
    }
    stored = [Stored(name, module, name, source, cast) for name, (source, cast) in sources.items()]
    return Unit(module, stored, index, count)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_cuts_put_together_are_the_parameters(count):
    units = [unit_of(index, count) for index in range(count)]
    cuts = [torch.empty(unit.share, dtype=torch.uint8) for unit in units]
    for unit, cut in zip(units, cuts, strict=True):
        for one in unit.stored:
            unit.read(cut, one, torch.device("cpu"))
    whole = torch.cat(cuts)
    assert whole.nbytes == units[0].size < 3 * 256 + 256 * count + sum(one.nbytes for one in units[0].stored)
    views = units[0].views(whole)
    for one, found in views:
        expected = one.on(torch.device("cpu"))
        assert found.dtype == expected.dtype and found.data_ptr() % 4 == 0
        assert torch.equal(found.float(), expected.float())

    patched = views[0][1].clone() + 1
    for unit, cut in zip(units, cuts, strict=True):
        unit.write(cut, unit.stored[0], patched)
    assert torch.equal(units[0].views(torch.cat(cuts))[0][1], patched)


def test_a_patch_that_changes_the_layout_is_refused():
    from xdit_comfyui.parallel_backend.rank.weights.flat_block import LayoutChanged

    unit = unit_of(0, 2)
    for other in (torch.zeros(7, 33, dtype=torch.float16), torch.zeros(8, 33)):
        with pytest.raises(LayoutChanged, match="one takes another form .* set weights to replicate"):
            unit.write(torch.empty(unit.share, dtype=torch.uint8), unit.stored[0], other)
