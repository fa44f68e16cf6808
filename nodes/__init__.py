"""The nodes people drag."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..parallel_backend.host.launch.surviving_ranks import wait_for_those_of_before
from .benchmark import XDiTBenchmark
from .comfyui_check import tell_about_comfyui
from .config import XDiTParallelConfig
from .doctor import XDiTDoctor
from .loader import XDiTCheckpointLoader, XDiTDiffusersLoader, XDiTLoader
from .metrics import serve_metrics_if_asked
from .sampler import XDiTSampler, XDiTSamplerAdvanced
from .status import serve_status


class XDiTExtension(ComfyExtension):
    async def on_load(self) -> None:
        wait_for_those_of_before()
        tell_about_comfyui()
        serve_metrics_if_asked()
        serve_status()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            XDiTLoader,
            XDiTCheckpointLoader,
            XDiTDiffusersLoader,
            XDiTSampler,
            XDiTSamplerAdvanced,
            XDiTParallelConfig,
            XDiTDoctor,
            XDiTBenchmark,
        ]
