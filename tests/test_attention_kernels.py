"""The attention kernel of a rank: FlashAttention 3 where it serves, the fastest of several remembered, torch elsewhere.

A stand-in takes the place of FlashAttention 3's package; the last test takes the package itself, on a Hopper GPU.
"""

import logging
import sys
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace

import comfy.model_management
import comfy.ops
import pytest
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_pytorch
from comfy_host import PACK_ROOT
from support.parity import relative_error
from torch.nn.attention import SDPBackend
from xdit_comfyui.parallel_backend.contract.attention_kernels import KERNELS, as_markdown
from xdit_comfyui.parallel_backend.rank.attention import kernel_choice, kernel_trials, local_attention, torch_kernels
from xdit_comfyui.parallel_backend.rank.attention.fastest_kernel import Fastest
from xdit_comfyui.parallel_backend.rank.attention.kernel_choice import attention_kernel
from xdit_comfyui.parallel_backend.rank.attention.local_attention import LocalAttention
from xdit_comfyui.parallel_backend.sharding.attention import ring
from xdit_comfyui.parallel_backend.sharding.attention.flash3 import Flash3
from xdit_comfyui.parallel_backend.sharding.attention.lse_attention import attention_with_lse
from xdit_comfyui.parallel_backend.sharding.engine.attention_override import ShardedAttention
from xdit_comfyui.parallel_backend.sharding.engine.session import Session
from xdit_comfyui.parallel_backend.sharding.exchange.collectives import SequenceGroups, TokenSplit

OFFICIAL, FORWARD_ONLY = "flash_attn_interface", "fa3_fwd_interface"
BF16_LIMIT = 1e-2
HEADS, SIZE = 4, 16


class StandIn:
    """A package's `flash_attn_func` in torch: the same layouts, every call and output kept. `shift`: a wrong result."""

    def __init__(self, half=False, shift=0.0):
        self._dtypes = (torch.bfloat16, torch.float16) if half else (torch.bfloat16,)
        self._shift = shift
        self.outputs = []

    def compute(self, q, k, v, scale):
        if q.dtype not in self._dtypes:
            raise RuntimeError("This flash attention build does not support FP16.")
        heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
        out, lse = attention_with_lse(*heads_first, scale=scale)
        self.outputs.append(out.transpose(1, 2).contiguous() + self._shift)
        return self.outputs[-1], lse

    def flash_attn_func(self, q, k, v, softmax_scale=None, causal=False, return_attn_probs=False):
        out, lse = self.compute(q, k, v, softmax_scale)
        return (out, lse) if return_attn_probs else out

    def older_flash_attn_func(self, q, k, v, softmax_scale=None, causal=False):
        return self.compute(q, k, v, softmax_scale)


@pytest.fixture
def install(monkeypatch):
    """install(module, stand_in): the only packages of FlashAttention 3, on a device that they run on."""
    monkeypatch.setattr(kernel_trials, "runs_on", lambda device: True)
    for module in (OFFICIAL, FORWARD_ONLY):
        monkeypatch.setitem(sys.modules, module, None)
    kernel_trials.flash3_on.cache_clear()

    def put(name, stand_in, older=False):
        module = ModuleType(name)
        module.flash_attn_func = stand_in.older_flash_attn_func if older else stand_in.flash_attn_func
        monkeypatch.setitem(sys.modules, name, module)
        return stand_in

    yield put
    kernel_trials.flash3_on.cache_clear()


@pytest.fixture
def flash3(install):
    return install(FORWARD_ONLY, StandIn())


def tensors(queries=12, keys=20, heads=HEADS, kv_heads=HEADS, size=SIZE, dtype=torch.bfloat16, batch=2):
    """q, k, v as a model's projections leave them, [B, L, H*D]."""
    generator = torch.Generator().manual_seed(queries)
    shapes = (queries, heads), (keys, kv_heads), (keys, kv_heads)
    return [torch.randn(batch, length, many * size, generator=generator).to(dtype) for length, many in shapes]


def by_heads(*tensors, size=SIZE):
    return [tensor.unflatten(-1, (-1, size)).transpose(1, 2) for tensor in tensors]


def exact(q, k, v, size=SIZE, **options):
    """[B, L, H*D] in fp32."""
    q, k, v = by_heads(q.float(), k.float(), v.float(), size=size)
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1], **options)
    return out.transpose(1, 2).flatten(2)


def test_flash3_is_comfyui_s_attention_while_the_context_lasts(flash3):
    before = comfy.ops.scaled_dot_product_attention
    q, k, v = tensors()
    with attention_kernel("flash3"):
        del flash3.outputs[:]  # of the trial
        out = attention_pytorch(q, k, v, HEADS)
        scaled = attention_pytorch(q, k, v, HEADS, scale=0.7)
    assert comfy.ops.scaled_dot_product_attention is before
    assert [one.data_ptr() for one in flash3.outputs] == [out.data_ptr(), scaled.data_ptr()], "the output was copied"
    assert relative_error(out, exact(q, k, v)) <= BF16_LIMIT
    assert relative_error(scaled, exact(q, k, v, scale=0.7)) <= BF16_LIMIT
    attention_pytorch(q, k, v, HEADS)
    assert len(flash3.outputs) == 2


def test_the_context_restores_what_it_exchanged_when_sampling_fails(flash3):
    before = comfy.ops.scaled_dot_product_attention
    with pytest.raises(ZeroDivisionError), attention_kernel("flash3"):
        assert comfy.ops.scaled_dot_product_attention is not before
        raise ZeroDivisionError
    assert comfy.ops.scaled_dot_product_attention is before


def test_grouped_queries(flash3):
    q, k, v = tensors(kv_heads=2)
    with attention_kernel("flash3"):
        del flash3.outputs[:]
        out = attention_pytorch(q, k, v, HEADS, enable_gqa=True)
    assert len(flash3.outputs) == 1 and relative_error(out, exact(q, k, v)) <= BF16_LIMIT


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"attn_mask": torch.ones(12, 12, dtype=torch.bool).tril()}, {}),
        ({"is_causal": True}, {}),
        ({"dropout_p": 1.0}, {}),
        ({}, {"dtype": torch.float32}),
        ({}, {"dtype": torch.float16}),
        ({}, {"size": 12}),
        ({}, {"size": 264}),
    ],
    ids=["mask", "causal", "dropout", "fp32", "fp16", "head size", "large heads"],
)
def test_what_flash3_cannot_serve_is_torch_s(flash3, options, shape):
    q, k, v = by_heads(*tensors(12, 12, **shape), size=shape.get("size", SIZE))
    with attention_kernel("flash3"):
        del flash3.outputs[:]
        out = comfy.ops.scaled_dot_product_attention(q, k, v, **options)
    assert flash3.outputs == [] and torch.equal(out, F.scaled_dot_product_attention(q, k, v, **options))


def test_the_official_package_comes_first_and_may_be_an_older_one(install):
    other, official = install(FORWARD_ONLY, StandIn()), install(OFFICIAL, StandIn(half=True), older=True)
    q, k, v = tensors(dtype=torch.float16)
    with attention_kernel("flash3"):
        del official.outputs[:]
        out = attention_pytorch(q, k, v, HEADS)
    assert len(official.outputs) == 1 and other.outputs == []
    assert relative_error(out, exact(q, k, v)) <= BF16_LIMIT


def test_a_package_that_computes_wrongly_is_not_used(install):
    wrong, right = install(OFFICIAL, StandIn(shift=1.0)), install(FORWARD_ONLY, StandIn())
    with attention_kernel("flash3"):
        del wrong.outputs[:], right.outputs[:]
        attention_pytorch(*tensors(), HEADS)
    assert wrong.outputs == [] and len(right.outputs) == 1


def test_who_asks_for_flash3_hears_once_that_it_is_missing(install):
    notes = []
    q, k, v = tensors()
    with attention_kernel("flash3", notes.append):
        out = attention_pytorch(q, k, v, HEADS)
    assert torch.equal(out, attention_pytorch(q, k, v, HEADS))
    (note,) = notes
    assert "flash3 cannot be had (FlashAttention 3: not installed)" in note and "pip install fa3-fwd" in note
    with attention_kernel("auto", notes.append):
        pass
    assert len(notes) == 1


def test_who_asks_for_nothing_hears_of_a_package_that_does_not_work(install):
    install(FORWARD_ONLY, StandIn(shift=1.0))
    notes = []
    with attention_kernel("auto", notes.append):
        pass
    (note,) = notes
    assert "is installed, but gives wrong results" in note


def test_without_a_hopper_gpu_no_package_is_loaded(install, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, FORWARD_ONLY, None)
    notes = []
    with attention_kernel("flash3", notes.append):
        pass
    assert "not for this device" in notes[0]


def test_a_kernel_that_a_node_pack_put_in_the_place_of_torch_s_stays(flash3, monkeypatch):
    theirs = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: theirs(*args, **kwargs))
    with attention_kernel("flash3"):
        del flash3.outputs[:]
        attention_pytorch(*tensors(), HEADS)
    assert flash3.outputs == []


# In a ring


def test_the_log_sum_exp_that_a_ring_takes(flash3):
    q, k, v = by_heads(*tensors())
    with attention_kernel("flash3") as with_lse:
        del flash3.outputs[:]
        out, lse = with_lse(q, k, v, None, 0.3)
        mask = torch.ones(12, 20, dtype=torch.bool).tril()
        masked, masked_lse = with_lse(q, k, v, mask, None)
    assert len(flash3.outputs) == 1
    expected, expected_lse = attention_with_lse(q.float(), k.float(), v.float(), None, 0.3)
    assert relative_error(out, expected) <= BF16_LIMIT and relative_error(lse, expected_lse) <= BF16_LIMIT
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32
    expected, expected_lse = attention_with_lse(q, k, v, mask)
    assert torch.equal(masked, expected) and torch.equal(masked_lse, expected_lse)


def test_a_ring_attends_by_the_kernel_of_the_request(flash3, monkeypatch):
    """Two ring ranks with the same keys, so that attention over both is that over one."""
    monkeypatch.setattr(ring, "start_shift", lambda send, recv, group: recv.copy_(send)[:0])
    groups = SequenceGroups(None, 0, 1, None, 0, 2, (0, 1), None)
    split = TokenSplit((12, 12))
    q, k, v = tensors(12, 12)
    with attention_kernel("flash3") as with_lse:
        del flash3.outputs[:]
        call = SimpleNamespace(
            attention_segments=(), whole_queries=False, attention_calls=0, pipeline=None, announced=None,
            session=Session(groups, kernel_with_lse=with_lse), split=lambda segments: split,
        )  # fmt: skip
        out = ShardedAttention(call, None)(None, q, k, v, HEADS)
    assert len(flash3.outputs) == 2
    assert relative_error(out, exact(q, k, v)) <= BF16_LIMIT


# The choice


class Clock:
    """Gives each kernel its seconds; `asked`: which were measured."""

    def __init__(self, **seconds):
        self.seconds = seconds
        self.asked = []

    def __call__(self, call):
        kernel = call()
        self.asked.append(kernel)
        if isinstance(seconds := self.seconds[kernel], Exception):
            raise seconds
        return seconds


ALL = ("flash3", "cudnn", "flash")


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({"flash3": 1.0, "cudnn": 1.1, "flash": 2.0}, "flash3"),
        ({"flash3": 1.0, "cudnn": 0.98, "flash": 2.0}, "flash3"),
        ({"flash3": 1.0, "cudnn": 0.9, "flash": 0.8}, "flash"),
        ({"flash3": RuntimeError("no plan"), "cudnn": 1.0, "flash": 0.99}, "cudnn"),
        (dict.fromkeys(ALL, RuntimeError("no plan")), "flash3"),
    ],
)
def test_the_first_kernel_is_taken_unless_another_is_clearly_faster(tmp_path, seconds, taken):
    clock = Clock(**seconds)
    fastest = Fastest(tmp_path / "attention.json", "a GPU", clock)
    assert fastest.measure("a shape", ALL, lambda kernel: kernel) == taken
    assert fastest.known("a shape") == taken and clock.asked == list(ALL)


def test_out_of_memory_is_no_verdict_on_a_kernel(tmp_path):
    fastest = Fastest(tmp_path / "attention.json", "a GPU", Clock(cudnn=torch.OutOfMemoryError(), flash=1.0))
    with pytest.raises(torch.OutOfMemoryError):
        fastest.measure("a shape", ("cudnn", "flash"), lambda kernel: kernel)
    assert fastest.known("a shape") is None


def test_a_choice_is_remembered_on_the_same_machine(tmp_path):
    file = tmp_path / "cache" / "attention.json"
    ours, theirs = Fastest(file, "a GPU", Clock(a=1, b=2)), Fastest(file, "a GPU", Clock(c=1, d=2))
    ours.measure("one shape", ("a", "b"), lambda kernel: kernel)
    theirs.measure("another", ("c", "d"), lambda kernel: kernel)
    again = Fastest(file, "a GPU", Clock())
    assert (again.known("one shape"), again.known("another")) == ("a", "c")
    assert Fastest(file, "another GPU", Clock()).known("one shape") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "measurements": [null]}', '{"format": 0}'])
def test_a_damaged_file_is_written_anew(tmp_path, caplog, content):
    file = tmp_path / "attention.json"
    file.write_text(content)
    with caplog.at_level(logging.WARNING):
        fastest = Fastest(file, "a GPU", Clock(a=1))
    assert ("attention.json is ignored" in caplog.text) == ("0" not in content)
    fastest.measure("a shape", ("a",), lambda kernel: kernel)
    assert Fastest(file, "a GPU", Clock()).known("a shape") == "a"


class Shapes:
    """A LocalAttention of all three kernels on the CPU, where those of torch are one in another order.

    `clocked`: what was measured; `seconds` of each; `capturing` as if into a CUDA graph.
    """

    def __init__(self, monkeypatch, tmp_path):
        self.seconds = dict.fromkeys(ALL, 1.0)
        self.clocked = []
        self.capturing = False
        self._calls = []
        order = [kernel.backend for kernel in torch_kernels.KERNELS.values()]
        names = {kernel.backend: name for name, kernel in torch_kernels.KERNELS.items()}
        stand_in = StandIn()

        def torchs(q, k, v, **options):
            self._calls.append(names[order[0]])
            return F.scaled_dot_product_attention(q, k, v, **options)

        def torchs_with_lse(kernel, q, k, v, scale):
            self._calls.append(kernel)
            return attention_with_lse(q, k, v, None, scale)

        def flash3(q, k, v, softmax_scale):
            self._calls.append("flash3")
            return stand_in.compute(q, k, v, softmax_scale)

        stand_ins = {
            name: replace(kernel, can=lambda params: True, with_lse=partial(torchs_with_lse, name))
            for name, kernel in torch_kernels.KERNELS.items()
        }
        monkeypatch.setattr(comfy.ops, "SDPA_BACKEND_PRIORITY", order, raising=False)
        monkeypatch.setattr(comfy.ops, "scaled_dot_product_attention", torchs)
        monkeypatch.setattr(torch_kernels, "KERNELS", stand_ins)
        monkeypatch.setattr(local_attention, "SMALL", 50_000)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        fastest = Fastest(tmp_path / "attention.json", "a GPU", self._clock)
        self.attention = LocalAttention(ALL, Flash3(FORWARD_ONLY, flash3, {}, (torch.bfloat16,)), fastest)

    def _clock(self, call):
        call()
        self.clocked.append(self._calls[-1])
        return self.seconds[self._calls[-1]]

    def attend(self, *shape, **options):
        """The kernel that attention goes to."""
        self.attention(*by_heads(*tensors(*shape)), **options)
        return self._calls[-1]

    def attend_in_a_ring(self, *shape, size=SIZE):
        self.attention.with_lse(*by_heads(*tensors(*shape, size=size), size=size), None, None)
        return self._calls[-1]


@pytest.fixture
def shapes(monkeypatch, tmp_path):
    return Shapes(monkeypatch, tmp_path)


def test_each_shape_is_measured_once(shapes):
    shapes.seconds["flash"] = 0.5
    assert shapes.attend(12, 20) == "flash" and shapes.clocked == ["flash3", "cudnn", "flash"]
    assert shapes.attend(12, 20) == "flash" and len(shapes.clocked) == 3
    shapes.seconds["flash"] = 1.0
    assert shapes.attend(24, 20) == "flash3" and len(shapes.clocked) == 6
    assert shapes.attend(12, 20) == "flash" and len(shapes.clocked) == 6


def test_small_calls_and_calls_with_a_mask_are_not_measured(shapes):
    assert shapes.attend(1, 1) == "cudnn"
    mask = torch.ones(12, 20, dtype=torch.bool)
    assert shapes.attend(12, 20, attn_mask=mask) == "cudnn"
    assert shapes.clocked == []


def test_nothing_is_measured_while_a_graph_is_captured(shapes):
    shapes.seconds["flash"] = 0.5
    shapes.capturing = True
    assert shapes.attend(12, 20) == "flash3" and shapes.clocked == []
    shapes.capturing = False
    assert shapes.attend(12, 20) == "flash"
    shapes.capturing = True
    assert shapes.attend(12, 20) == "flash" and len(shapes.clocked) == 3


def test_the_calls_of_a_ring_are_measured_for_themselves(shapes):
    assert shapes.attend(12, 20) == "flash3" and len(shapes.clocked) == 3
    shapes.seconds["flash"] = 0.5
    for _ in range(2):
        assert shapes.attend_in_a_ring(12, 20) == "flash" and len(shapes.clocked) == 6
    assert shapes.attend(12, 20) == "flash3" and len(shapes.clocked) == 6


def test_cudnn_is_no_choice_for_heads_too_large_for_its_log_sum_exp(shapes):
    assert shapes.attend_in_a_ring(12, 20, size=136) == "flash3"
    assert shapes.clocked == ["flash3", "flash"]


@pytest.mark.parametrize(
    ("capability", "name", "first", "measures"),
    [
        ((9, 0), "auto", "cudnn", True),
        ((8, 9), "auto", "flash", True),
        ((8, 9), "flash3", "flash", False),
        ((9, 0), "flash", "flash", False),
        ((8, 9), "cudnn", "cudnn", False),
    ],
)
def test_what_is_first_on_a_gpu_without_flash3(monkeypatch, tmp_path, capability, name, first, measures):
    """As far as that shows without the GPU: torch's order, whether calls are measured, and where that is kept."""
    order = [SDPBackend.FLASH_ATTENTION]
    monkeypatch.setenv("XDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(comfy.ops, "SDPA_BACKEND_PRIORITY", order, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {tmp_path}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(kernel_choice, "flash3_on", lambda device: kernel_trials.NOT_INSTALLED)
    before = comfy.ops.scaled_dot_product_attention
    backends = {name: kernel.backend for name, kernel in torch_kernels.KERNELS.items()}
    with attention_kernel(name, lambda line: None):
        assert order == [backends[first], *(set(backends.values()) - {order[0]}), *torch_kernels.REST]
        assert (comfy.ops.scaled_dot_product_attention is not before) == measures
        if measures:
            comfy.ops.scaled_dot_product_attention._fastest._remember("a shape", first)
    assert order == [SDPBackend.FLASH_ATTENTION] and comfy.ops.scaled_dot_product_attention is before
    assert (tmp_path / "attention.json").exists() == measures


# The package itself


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU and FlashAttention 3")
@pytest.mark.parametrize("kv_heads", [24, 8])
def test_flash_attention_3_on_a_gpu(tmp_path, kv_heads):
    """Held against fp32 as cuDNN's is; the choice is made by the real clock, and whatever it says is right."""
    device = torch.device("cuda", 0)
    flash3 = kernel_trials.flash3_on(device)
    if not isinstance(flash3, Flash3):
        pytest.skip(f"FlashAttention 3: {flash3}")
    q, k, v = (tensor.to(device) for tensor in tensors(1000, 1100, 24, kv_heads, 128))
    q, k, v = by_heads(q, k, v, size=128)
    expected, expected_lse = attention_with_lse(q.float(), k.float(), v.float())
    fastest = Fastest(tmp_path / "attention.json", "this one")
    for attention in (LocalAttention(ALL, flash3, None), LocalAttention(ALL, flash3, fastest)):
        out, lse = attention.with_lse(q, k, v, None, None)
        assert relative_error(out, expected) <= BF16_LIMIT and relative_error(lse, expected_lse) <= 1e-5
        assert relative_error(attention(q, k, v, enable_gqa=True), expected) <= BF16_LIMIT
    out = LocalAttention(ALL, flash3, None)(q, k, v, enable_gqa=True)
    assert out.transpose(1, 2).is_contiguous()


def test_every_kernel_of_the_table_is_tried_and_stands_in_the_help_page():
    assert set(kernel_trials.CALLS) == set(KERNELS)
    assert as_markdown() in (PACK_ROOT / "web" / "docs" / "XDiTParallelConfig.md").read_text()


def test_auto_and_what_parallel_config_offers_is_exact_and_goes_into_rings():
    offered = [kernel for kernel in KERNELS.values() if kernel.offered]
    assert all(kernel.exact and kernel.lse for kernel in offered)
    assert {kernel.name for kernel in offered} == {*torch_kernels.KERNELS, "flash3"}
