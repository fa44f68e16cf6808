"""Which ways of dividing the work make sense on this machine, and why, in words.

The figures for slow links: FLUX.1-dev, bf16, with NCCL_P2P_DISABLE=1, so through host memory at 23 GB/s; ulysses on two
H200, PipeFusion on two H100.
"""

from __future__ import annotations

from ..host.base.devices import DeviceSet
from ..host.strategy.link_speed import FAST_LINK, Links
from .report import Advice, Report

FIRST, GOOD, LARGE, NO = "first", "good", "large only", "no"
GB = 1e9


def advice(devices: DeviceSet | None, report: Report, links: Links | None) -> list[Advice]:
    """Best first. Without measured links the kind of the connection (`nvidia-smi topo -m`) has to do."""
    if devices is None:
        return [Advice("none", NO, "there is no GPU; CPU ranks (devices cpu:2) work, for trying things out")]
    if devices.kind == "cpu":
        return [Advice("any", NO, "CPU ranks are for trying things out; they share one CPU and gain nothing")]
    if devices.size == 1:
        kernel = next((kernel for kernel in report.kernels if kernel.name == "cudnn" and kernel.works), None)
        gain = "; what this pack adds is the choice of the attention kernel" if kernel else ""
        return [Advice("one device", FIRST, f"one GPU: there is nothing to divide{gain}")]
    return [*_whole_images(devices), *_sequence(devices, report, links)]


def _whole_images(devices: DeviceSet) -> list[Advice]:
    cfg = "positive and negative prompt at the same time, with CFG above 1; sends only the result of each step"
    if devices.size % 2:
        cfg += f"; needs an even number of GPUs, here are {devices.size}"
    batch = "several images in one latent batch, each on its own GPU; sends as little"
    return [Advice("cfg", NO if devices.size % 2 else FIRST, cfg), Advice("batch", GOOD, batch)]


def _sequence(devices: DeviceSet, report: Report, links: Links | None) -> list[Advice]:
    if links is not None:
        speed = f"{links.bandwidth / GB:.0f} GB/s each way measured"
        fast = links.fast
    else:
        kinds = {pair.kind for pair in report.pairs}
        fast = all(kind is not None and kind.startswith("NV") for kind in kinds)
        speed = f"not measured; connected by {', '.join(sorted(kind or 'an unknown link' for kind in kinds))}"
    pipefusion = _pipefusion(fast)
    if fast:
        ring = "together with ulysses, when a model has fewer heads than there are GPUs; else ulysses is faster"
        if devices.size == 2:
            ring = "keys and values travel while attention runs: the fastest for Flux; for others try xDiT Benchmark"
        return [Advice("ulysses", FIRST, f"one image over all GPUs; the link is fast ({speed})"),
                Advice("ring", GOOD, ring), pipefusion]  # fmt: skip
    slow = f"the link is slow ({speed}; ulysses wants {FAST_LINK / GB:.0f})"
    why = (
        f"{slow}: it pays for images of 2048² and more, and for video. At 23 GB/s a Flux step took two GPUs 159 ms at"
        " 1024² where one took 154, and 640 at 2048² where one took 772"
    )
    ring = "sends more than ulysses over the same link; only when a model has fewer heads than there are GPUs"
    return [pipefusion, Advice("ulysses", LARGE, why), Advice("ring", NO, ring)]


def _pipefusion(fast: bool) -> Advice:
    if fast:
        return Advice("pipefusion", NO, "the picture is approximate; worth it on slow links only, and this one is fast")
    gain = "two GPUs made a Flux step 1.75 times as fast as one at 1024² and 1.91 times at 2048²"
    return Advice("pipefusion", GOOD, f"sends 1 % of what ulysses does: {gain}; the picture is approximate")
