"""Patches of a MODEL, some of which cannot be pickled."""

import threading

from comfy_api.latest import io


class LockedPatch:
    """A patch inside the blocks that holds a lock: it can neither be pickled nor run outside the model call."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, args):
        with self.lock:
            return args


class LockedWrapper:
    """A model function wrapper that holds a lock: it runs around the model call, so it can stay in ComfyUI."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, apply_model, parameters):
        with self.lock:
            return apply_model(parameters["input"], parameters["timestep"], **parameters["c"])


def patch_schema(node_id: str) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        category="xDiT/test",
        inputs=[io.Model.Input("model")],
        outputs=[io.Model.Output()],
    )


class ForgetRecipe(io.ComfyNode):
    """A MODEL as another pack's loader gives it: nothing says how to load it again."""

    @classmethod
    def define_schema(cls):
        return patch_schema("ForgetRecipe")

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        clone = model.clone()
        clone.cached_patcher_init = None
        return io.NodeOutput(clone)


class LockedBlockPatch(io.ComfyNode):
    """Patches every single block's output with something that cannot be sent."""

    @classmethod
    def define_schema(cls):
        return patch_schema("LockedBlockPatch")

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        clone = model.clone()
        clone.set_model_patch(LockedPatch(), "single_block")
        return io.NodeOutput(clone)


class LockedFunctionWrapper(io.ComfyNode):
    """Wraps the model call in something that cannot be sent, but need not be."""

    @classmethod
    def define_schema(cls):
        return patch_schema("LockedFunctionWrapper")

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        clone = model.clone()
        clone.set_model_unet_function_wrapper(LockedWrapper())
        return io.NodeOutput(clone)
