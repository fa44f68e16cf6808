"""GET /xdit/metrics on ComfyUI's own port, for Prometheus; only where XDIT_METRICS=1 is set."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys

from .owner import owner

PATH = "/xdit/metrics"
INSTALL = f'it needs prometheus-client: {sys.executable} -m pip install "prometheus-client>=0.20"'


def serve_metrics_if_asked() -> None:
    """Start counting and add the route. Called while ComfyUI loads its nodes, before it fixes its routes."""
    if os.environ.get("XDIT_METRICS") != "1":
        return
    if importlib.util.find_spec("prometheus_client") is None:
        logging.warning("xDiT: XDIT_METRICS=1 is set, but %s is not there: %s", PATH, INSTALL)
        return
    from aiohttp import web
    from prometheus_client import CONTENT_TYPE_LATEST
    from server import PromptServer

    from ..parallel_backend.host.service.metrics import Metrics

    metrics = Metrics()
    owner.events.subscribe(metrics.on_event)

    @PromptServer.instance.routes.get(PATH)
    async def answer(request: web.Request) -> web.Response:
        running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        executing = {item[1] for item in running}
        text = await asyncio.to_thread(metrics.text, executing)  # nvidia-smi takes its time
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
