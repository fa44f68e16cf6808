"""What this pack keeps in ComfyUI's process from prompt to prompt, made once and handed to whoever needs it."""

from __future__ import annotations

from .base.events import Events
from .group.manager import GroupManager
from .model.seam import Seam
from .run.loaded_models import LoadedModels
from .run.preload import Preloads
from .run.runner import Runner
from .service.control import Control
from .service.idle import IdleRelease
from .service.status import Status


class Owner:
    """The process group's manager and all that knows of it. `seam`: what a MODEL samples through; `runner`: what the
    seam calls; `control`, `status`: for people.
    """

    def __init__(self) -> None:
        self.events = Events()
        self.manager = GroupManager(self.events)
        self.preloads = Preloads(self.manager)
        self.loaded_models = LoadedModels(self.manager, self.preloads)
        self.runner = Runner(self.manager, self.preloads, self.loaded_models)
        self.seam = Seam(self.runner.run)
        self.control = Control(self.manager, self.preloads)
        self.status = Status(self.manager, self.preloads)
        self.events.subscribe(self.status.on_event)
        self.events.subscribe(IdleRelease(self.manager, self.control).on_event)
