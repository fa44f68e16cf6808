"""The benchmarks' full-size models are what ComfyUI takes them for, and their times are read rightly."""

import sys
from pathlib import Path

import pytest
import torch
from support.comfy_client import Event

sys.path.append(str(Path(__file__).absolute().parents[1] / "benchmarks"))
from gpu_run.engines import engines  # noqa: E402
from gpu_run.server import step_times  # noqa: E402

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


def test_engines_of_a_machine():
    assert [(e.name, e.devices) for e in engines(4)] == [
        ("stock", None),
        ("xDiT 1 GPU", "0"),
        ("xDiT 2 GPUs", "0,1"),
        ("xDiT 4 GPUs", "0,1,2,3"),
    ]
    two = engines(0, ("auto", "ulysses"))
    assert [(e.name, e.degrees) for e in two[2:]] == [
        ("xDiT 2 CPU ranks", {}),
        ("xDiT 2 CPU ranks ulysses", {"ulysses": 2}),
    ]
