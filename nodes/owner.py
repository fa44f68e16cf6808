"""The one owner of what this pack keeps between prompts: made here, when ComfyUI imports the nodes."""

from __future__ import annotations

from ..parallel_backend.host.owner import Owner

owner = Owner()
