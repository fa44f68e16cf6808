"""A MODEL that does not say how to load it again: what can be done, by what it is."""

from types import SimpleNamespace

import pytest
import torch
from xdit_comfyui.parallel_backend.contract.recipe import NoRecipe, Recipe


class GGMLTensor(torch.Tensor):
    """Named as the tensors of GGUF packs are."""


class GGMLOps:
    """Named as their operations are."""


class GGUFModelPatcher(SimpleNamespace):
    """Named as their patcher is."""


class Flux(torch.nn.Module):
    def __init__(self, operations=None, weight=None):
        super().__init__()
        self.model_config = SimpleNamespace(custom_operations=operations)
        if weight is not None:
            self.weight = torch.nn.Parameter(weight, requires_grad=False)


def refusal(patcher) -> str:
    with pytest.raises(NoRecipe) as refused:
        Recipe.of(patcher)
    return str(refused.value)


@pytest.mark.parametrize(
    "patcher",
    [
        GGUFModelPatcher(model=Flux()),
        SimpleNamespace(model=Flux(operations=GGMLOps)),
        SimpleNamespace(model=Flux(weight=torch.zeros(2).as_subclass(GGMLTensor))),
    ],
    ids=["patcher", "operations", "weights"],
)
def test_gguf_is_told_what_there_is_instead(patcher):
    text = refusal(patcher)
    assert "GGUF file, which the ranks do not read" in text and "Load a safetensors file of the model" in text
    assert "on one device with a stock sampler" in text


def test_another_packs_loader_is_told_what_its_author_can_do():
    text = refusal(SimpleNamespace(model=Flux(weight=torch.zeros(2))))
    assert "GGUF" not in text and "cached_patcher_init" in text and "xDiT Checkpoint Loader" in text
