"""Routes on ComfyUI's own port for the sidebar tab: GET /xdit/status, POST /xdit/unload, POST /xdit/restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..parallel_backend.host.base.errors import GroupError, OutOfMemory, RequestRefused
from ..parallel_backend.host.group.manager import InUse
from .owner import owner

EMPTY = b"{}"


def serve_status() -> None:
    """Add the routes. Called while ComfyUI loads its nodes, before it fixes its routes."""
    from aiohttp import web
    from server import PromptServer

    routes = PromptServer.instance.routes

    @routes.get("/xdit/status")
    async def show(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(owner.status.snapshot))

    async def do(request: web.Request, what: Callable[[], str]) -> web.Response:
        if request.content_type != "application/json":  # which pages of other sites cannot send unasked
            return answer(415, "send Content-Type: application/json")
        if request.content_length != len(EMPTY) or await request.read() != EMPTY:
            return answer(400, "send {} as the body")
        try:
            done = await asyncio.to_thread(what)
        except InUse as error:
            return answer(409, str(error))
        except (GroupError, OutOfMemory, RequestRefused) as error:
            logging.error("xDiT: %s: %s", request.path, error)
            return answer(500, str(error))
        return answer(200, done)

    def answer(code: int, message: str) -> web.Response:
        return web.json_response({"message": message}, status=code)

    @routes.post("/xdit/unload")
    async def unload(request: web.Request) -> web.Response:
        return await do(request, owner.control.unload)

    @routes.post("/xdit/restart")
    async def restart(request: web.Request) -> web.Response:
        return await do(request, owner.control.restart)
