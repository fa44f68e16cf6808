"""When a CUDA graph may be replayed, on any machine: the capture itself is replaced, what decides about it is not."""

import contextlib
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from xdit_comfyui.parallel_backend.compiled import graphs
from xdit_comfyui.parallel_backend.sharding.engine.attention_override import ShardedAttention
from xdit_comfyui.parallel_backend.sharding.exchange import collective_counts
from xdit_comfyui.parallel_backend.sharding.foreign.kernel_choice import OVERRIDE


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x, timestep, context=None, scale=1.0, control=None, transformer_options=None):
        return self.linear(x) * scale + timestep


class Recorded:
    """Stands where a torch.cuda.CUDAGraph is replayed: the captured call made again on the static inputs."""

    def __init__(self, forward, static, structure, options):
        self.calls = 0
        self._again = lambda: forward(
            *(given := graphs.tree_unflatten(static, structure))[0], **given[1], transformer_options=options
        )

    def replay(self):
        self.calls += 1
        self.output.copy_(self._again())


@pytest.fixture
def model():
    return Model().requires_grad_(False)


@pytest.fixture
def graphed(model):
    """GraphedForward whose captures are listed in `captured`, and whose warm calls measure nothing."""

    class OnCpu(graphs.GraphedForward):
        captured: list = []

        def _measured(self, key, args, kwargs):
            return self._original(*args, **kwargs)

        def _capture(self, key, leaves, structure, options):
            static = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            graph = Recorded(self._original, static, structure, options)
            args, kwargs = graphs.tree_unflatten(static, structure)
            graph.output = self._original(*args, **kwargs)
            inputs = [leaf for leaf in static if isinstance(leaf, torch.Tensor)]
            while len(self._graphs) >= graphs.MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = graphs.Graph(graph, inputs, graph.output)
            self.captured.append(graph)
            return True

    made = OnCpu(model, restart=lambda: None)
    made.captured = []
    return made


def call(model, rows=2, **inputs):
    x, timestep = torch.randn(rows, 4), torch.rand(1)
    expected = model.linear(x) * inputs.get("scale", 1.0) + timestep
    assert torch.equal(model(x, timestep, **{"transformer_options": {}, **inputs}), expected)


def calls(model, times=graphs.WARM_CALLS + 2, **inputs):
    for _ in range(times):
        call(model, **inputs)


def replays(graphed):
    return [graph.calls for graph in graphed.captured]


def test_a_shape_is_captured_after_its_warm_calls_and_replayed_with_new_inputs(model, graphed):
    calls(model)
    assert replays(graphed) == []  # not started
    graphed.start(print, "ulysses 2")
    calls(model)
    assert replays(graphed) == [2]
    graphed.active = False
    calls(model)
    assert replays(graphed) == [2]


def test_other_shapes_and_values_have_graphs_of_their_own(model, graphed):
    graphed.start(print, "ulysses 2")
    for inputs in ({}, {"rows": 3}, {"scale": 0.5}, {"context": torch.ones(2)}):
        calls(model, **inputs)
    assert replays(graphed) == [2, 2, 2, 2]
    calls(model, times=1)
    assert replays(graphed) == [3, 2, 2, 2]


def test_the_oldest_graph_makes_room(model, graphed):
    graphed.start(print, "ulysses 2")
    for rows in range(1, graphs.MOST_GRAPHS + 2):
        calls(model, rows=rows)
    calls(model, times=1, rows=1)  # captured anew
    assert len(graphed.captured) == graphs.MOST_GRAPHS + 2


@pytest.mark.parametrize("change", ["degrees", "weight moved", "dropped"])
def test_what_a_graph_rests_on_changed(model, graphed, change):
    graphed.start(print, "ulysses 2")
    calls(model)
    if change == "weight moved":
        model.linear.weight = torch.nn.Parameter(model.linear.weight * 2, requires_grad=False)
    if change == "dropped":
        graphed.drop()
    graphed.start(print, "ring 2" if change == "degrees" else "ulysses 2")
    calls(model, times=graphs.WARM_CALLS)
    assert replays(graphed) == [2]
    calls(model, times=1)
    assert replays(graphed) == [2, 1]


def test_a_pipeline_lies_inside_of_the_graph(model, graphed):
    """Also where ComfyUI's class has no `_forward`, as SD3's: what ends early is a run, not the captured call."""
    inner, runs = model._forward, []
    model._forward = lambda *args, **kwargs: runs.append(len(graphed.captured)) or inner(*args, **kwargs)
    graphed.start(print, "pipefusion 2")
    calls(model)
    assert replays(graphed) == [2]
    assert len(runs) == graphs.WARM_CALLS + 1 + 2  # a capture, here a call, and two replays


def test_weights_changed_in_place_are_seen(model, graphed):
    graphed.start(print, "ulysses 2")
    calls(model)
    model.linear.weight.mul_(3)
    graphed.start(print, "ulysses 2")
    calls(model, times=1)
    assert replays(graphed) == [3]


@pytest.mark.parametrize(
    "inputs",
    [
        {"transformer_options": {"patches": {"attn1_patch": [print]}}},
        {"transformer_options": {"patches_replace": {"dit": {("double_block", 0): print}}}},
        {"transformer_options": {"wrappers": {WrappersMP.DIFFUSION_MODEL: {"easycache": [print]}}}},
        {"transformer_options": {OVERRIDE: print}},
        {"transformer_options": {OVERRIDE: ShardedAttention(mock.Mock(), print)}},
        {"control": object()},
    ],
    ids=["patch", "replaced block", "wrapper", "attention override", "override below the exchange", "unknown input"],
)
def test_python_inside_the_forward_is_never_captured(model, graphed, inputs):
    graphed.start(print, "ulysses 2")
    calls(model, **inputs)
    assert graphed.captured == []


def test_options_that_are_empty_do_not_hinder(model, graphed):
    graphed.start(print, "ulysses 2")
    options = {
        "patches": {"attn1_patch": []},
        "patches_replace": {"dit": {}},
        "wrappers": {WrappersMP.DIFFUSION_MODEL: {}, WrappersMP.APPLY_MODEL: {"other": [print]}},
        OVERRIDE: ShardedAttention(mock.Mock(), None),
    }
    calls(model, transformer_options=options)
    assert replays(graphed) == [2]


@pytest.mark.parametrize("captures", [True, False], ids=["captured", "capture fails"])
def test_each_call_counts_its_collectives_once(model, monkeypatch, captures):
    """Warm, captured and replayed, or called because the capture failed half way: ranks in step count alike."""
    name = collective_counts.beside(SimpleNamespace(group_name="test"), "symmetric")
    capturing = False

    @contextlib.contextmanager
    def capture(*_, **__):
        nonlocal capturing
        capturing = True
        yield
        capturing = False

    def linear(x):
        nonlocal capturing
        collective_counts.count(name)
        if capturing and not captures:
            capturing = False
            raise RuntimeError("cannot be captured")
        collective_counts.count(name)
        return x

    monkeypatch.setattr(graphs.torch.cuda, "CUDAGraph", mock.Mock)
    monkeypatch.setattr(graphs.torch.cuda, "graph_pool_handle", mock.Mock())
    monkeypatch.setattr(graphs.torch.cuda, "graph", capture)
    model.linear.forward = linear
    graphed = graphs.GraphedForward(model, restart=lambda: None)
    monkeypatch.setattr(graphed, "_measured", lambda key, args, kwargs: graphed._original(*args, **kwargs))
    graphed.start(print, "ulysses 2")
    for call_number in range(1, graphs.WARM_CALLS + 4):
        before = collective_counts.begun()[name]
        model(torch.ones(2, 4), torch.ones(1), transformer_options={})
        assert collective_counts.begun()[name] - before == 2, call_number
    assert len(graphed._graphs) == captures
