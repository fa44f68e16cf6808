"""The benchmarks' full-size models are what ComfyUI takes them for, and their times are read rightly."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.comfy_client import Event

sys.path.append(str(Path(__file__).absolute().parents[1] / "benchmarks"))
import scaling  # noqa: E402
from chart import bars, svg  # noqa: E402
from gpu_run.engines import engines  # noqa: E402
from gpu_run.server import Speed, step_times  # noqa: E402
from step_profile import breakdown  # noqa: E402
from xdit_flux import Run as XditRun  # noqa: E402

CLASSES = {"sdxl": ("SDXL", 2.5e9), "qwen": ("QwenImage", 20e9), "wan": ("WAN21_T2V", 14e9), "flux": ("Flux", 11.9e9)}


@pytest.mark.parametrize("name", CLASSES)
def test_a_full_size_file_is_detected(name):
    """Shapes alone, on meta: ComfyUI builds a model of the same parameters from them."""
    import comfy.model_detection
    from gpu_run.models.main import JOBS

    shapes = JOBS[name](tiny=False).shapes()
    weights = {key: torch.empty(shape, dtype=torch.bfloat16, device="meta") for key, shape in shapes.items()}
    expected, parameters = CLASSES[name]
    config = comfy.model_detection.model_config_from_unet(weights, "")
    assert type(config).__name__ == expected
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model(weights, "", device="meta").diffusion_model
    assert sum(value.numel() for value in model.state_dict().values()) == sum(map(torch.Size.numel, shapes.values()))
    assert sum(map(torch.Size.numel, shapes.values())) == pytest.approx(parameters, rel=0.05)


def test_times_between_progress_events():
    def event(step: int, time: float) -> Event:
        return Event(time, "progress", {"value": step})

    events = [event(1, 10.0), event(2, 10.9), event(4, 11.3), event(5, 11.6)]  # the third was left out by ComfyUI
    assert step_times(events, skipped_steps=2) == pytest.approx([200, 300])
    assert step_times(events[:2], skipped_steps=2) == pytest.approx([900])
    assert step_times(events[:1], skipped_steps=1) == []


def test_one_time_between_events_is_no_step_time():
    """Its event came when the step was launched: 14 s, where the sampler took 66 s for two steps."""
    assert Speed([14e3], seconds=67, sampler_seconds=66, steps=2).ms_per_step == 33e3
    assert Speed([7e3, 9e3, 8e3], seconds=40, sampler_seconds=39, steps=4).ms_per_step == 8e3


def test_engines_of_a_machine():
    assert [(e.name, e.compile) for e in engines(1, compile="on")[1:]] == [("xDiT 1 GPU, compiled", "on")]
    assert [(e.name, e.devices) for e in engines(4)] == [
        ("stock", None),
        ("xDiT 1 GPU", "0"),
        ("xDiT 2 GPUs", "0,1"),
        ("xDiT 4 GPUs", "0,1,2,3"),
    ]
    two = engines(0, ("auto", "ulysses"))
    assert [(e.name, e.settings) for e in two[2:]] == [
        ("xDiT 2 CPU ranks", {"compile": "off"}),
        ("xDiT 2 CPU ranks ulysses", {"compile": "off", "ulysses": 2}),
    ]


def test_a_profile_counts_time_without_kernels_once():
    kernels = [
        ("nvjet_tst_192x192", 0, 1000),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", 1000, 3000),
        ("ncclDevKernel_SendRecv", 2000, 4000),  # half of it beside the attention
        ("void at::native::vectorized_elementwise_kernel", 6000, 6500),
        ("Memcpy DtoD (Device -> Device)", 6500, 7000),
    ]
    assert breakdown(kernels, 10.0) == pytest.approx(
        {"attention": 2, "collective": 2, "gemm": 1, "copy": 0.5, "elementwise": 0.5, "idle": 5, "total": 10}
    )


def test_the_chart_compares_with_stock_of_the_same_case():
    about = {"gpus": ["A GPU, 1 MiB, 1"], "versions": {"ComfyUI": "0.30.0"}}
    rows = [("stock", 1, 200.0), ("stock", 1, 220.0), ("xDiT 2 GPUs", 2, 100.0)]
    speeds = [{"model": "M", "case": "1²", "engine": e, "ranks": r, "ms_per_step": ms} for e, r, ms in rows]
    speeds.append({"model": "M", "case": "2²", "engine": "xDiT 2 GPUs", "ranks": 2, "ms_per_step": 1.0})
    contents = [{"about": about, "speeds": speeds}]
    assert bars(contents) == {"M 1²": [("stock", 0, 210.0, 1.0), ("xDiT 2 GPUs", 2, 100.0, 2.1)]}
    assert "2.10 × · 100 ms · xDiT 2 GPUs" in svg(contents)


def test_xdit_is_compared_by_its_best_mode_on_as_many_gpus(tmp_path):
    run = XditRun(SimpleNamespace(budget_seconds=1), tmp_path)
    timed = [
        ("stock", 1, "eager", [200.0, 190.0, 210.0]),
        ("pack", 2, "compiled", [80.0]),
        ("pack", 2, "compiled", [70.0]),  # the second pass
        ("xdit", 2, "compiled", [90.0]),
        ("xdit", 2, "eager", [120.0]),
    ]
    for engine, gpus, mode, ms in timed:
        run.rows.append({"engine": engine, "gpus": gpus, "mode": mode, "pixels": 1024, "ms": ms, "off_one_gpu": None})
    rows = {(row["engine"], row["mode"]): row for row in run.medians()}
    ours, theirs = rows["pack", "compiled"], rows["xdit", "eager"]
    assert (ours["ms"], ours["over_xdit"]) == (75.0, 1.2)
    assert ours["over_stock"] == pytest.approx(200 / 75) and theirs["over_xdit"] is None
    assert "1.20 ×" in run.table()


def test_the_operations_of_a_flux_step_are_those_of_its_formula():
    from gpu_run.models import flux
    from gpu_run.models.limits import limit_ms, step_flops

    job = flux.job(tiny=False)
    case, width, text, image = job.cases[0], 3072, 512, 64 * 64
    tokens = text + image
    double = 19 * (
        tokens * (4 + 8) * width**2 + 2 * 6 * width**2
    )  # qkv, projection, MLP; modulation of one vector each
    single = 38 * (tokens * (7 + 5) * width**2 + 3 * width**2)
    attention = (19 + 38) * 2 * tokens**2 * width
    ends = (image * 64 * 2 + text * 4096) * width + 3 * (256 + width) * width + (768 - 256) * width + 2 * width**2
    products = double + single + attention + ends
    assert step_flops(job, case) == pytest.approx(2 * products, rel=1e-5)
    assert limit_ms(step_flops(job, case), ranks=2) == pytest.approx(47, rel=0.01)


def test_scaling_is_drawn_of_the_fastest_engine_of_each_kind(tmp_path):
    about = {"gpus": ["A GPU, 1 MiB, 1"]}
    rows = [("stock", 1, 200.0), ("xDiT 1 GPU", 1, 160.0), ("xDiT 2 GPUs ring", 2, 110.0), ("xDiT 2 GPUs", 2, 100.0)]
    speeds = [{"model": "M", "case": "1²", "engine": e, "ranks": r, "ms_per_step": ms} for e, r, ms in rows]
    limits = [{"model": "M", "case": "1²", "ms_one_gpu": 80.0, "tflops": 790}]
    contents = [{"about": about, "speeds": speeds}, {"about": about, "speeds": [], "limits": limits}]
    (panel,) = scaling.panels(contents)
    assert (panel.stock, panel.limit, panel.curves) == (200.0, 80.0, {"pack": {1: 160.0, 2: 100.0}})
    assert panel.most == 5.0
    assert scaling.panels(scaling.runs_of({"runs": contents})) == [panel]
    assert scaling.runs_of(contents[0]) == contents[:1]
    image = scaling.picture(contents)
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert image.width > 600 and (0x1A, 0x5F, 0x99) in colours


def test_calls_by_a_ring_are_this_pack_s_and_fp8_weights_are_not_compared():
    rows = [("stock", 1, 200.0), ("pack", 1, 130.0), ("pack", 2, 80.0), ("pack-ring", 2, 75.0), ("xdit", 2, 90.0)]
    rows += [("pack-fp8", 1, 90.0), ("pack-ring-fp8", 2, 50.0)]
    medians = [{"engine": e, "gpus": g, "pixels": 1024, "mode": "compiled", "ms": ms} for e, g, ms in rows]
    (panel,) = scaling.panels([{"about": {"gpu": "A GPU"}, "medians": medians}])
    assert panel.curves == {"pack": {1: 130.0, 2: 75.0}, "xdit": {2: 90.0}}
