"""Nodes that use the weightless MODEL themselves: looking is fine, computing says in one sentence why it cannot be."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import both, flux_loaders
from support.prompts import Graph


def error_of(client, models, node, file=None, **inputs):
    graph = Graph()
    loaded = flux_loaders(graph, models)[1]
    if file is not None:
        graph.prompt[loaded.id]["inputs"]["unet_name"] = file
    graph.save(graph.add(node, model=loaded, **inputs))
    with pytest.raises(PromptFailed) as failed:
        client.run(graph.prompt)
    return failed.value.result.error


USES = [
    "mean",
    "clone",
    "to the cpu",
    "copy into",
    "state dict",
    "forward of a layer",
    "forward of a block",
    "comfy's cast",
]


@pytest.mark.parametrize("what", USES)
def test_a_node_that_computes_with_a_weight_is_told_why_it_cannot(client, models, what):
    error = error_of(client, models, "ForeignUses", what=what)
    assert error.node_type == "ForeignUses"
    assert "an xDiT MODEL has no weights in ComfyUI's process" in error.message
    assert "stock loader" in error.message


@pytest.mark.parametrize(
    "what", ["mean", "to the cpu", "copy into", "forward of a layer", "comfy's cast", "state dict"]
)
@pytest.mark.parametrize("kind", ["fp8", "float8_e4m3fn", "int8_tensorwise"])
def test_of_quantised_weights_too(client, models, kind, what):
    error = error_of(client, models, "ForeignUses", models.quantised_flux(kind), what=what)
    assert error.node_type == "ForeignUses"
    assert "an xDiT MODEL has no weights in ComfyUI's process" in error.message


def test_a_node_that_runs_the_model_is_told_why_it_cannot(client, models):
    error = error_of(client, models, "ForeignRunsModel", seed=1)
    assert error.node_type == "ForeignRunsModel"
    assert "an xDiT MODEL has no weights in ComfyUI's process" in error.message


def test_a_node_that_looks_sees_what_it_sees_of_a_stock_model(client, models):
    stock, ours = both(client, models, lambda graph, model: graph.add("ForeignLooks", model=model))
    assert stock.equal(ours)
