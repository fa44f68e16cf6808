"""A guider whose class lives in this pack: picklable, if the ranks find the pack."""

import comfy.samplers
from comfy_api.latest import io


class WeightedGuider(comfy.samplers.CFGGuider):
    """The prediction of the positive prompt times a weight."""

    def set_weight(self, weight: float) -> None:
        self.weight = weight

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        return super().predict_noise(x, timestep, model_options or {}, seed) * self.weight


class WeightedGuiderNode(io.ComfyNode):
    """A custom guider that can be pickled."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WeightedGuider",
            category="xDiT/test",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("conditioning"),
                io.Float.Input("weight", default=0.9),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model, conditioning, weight) -> io.NodeOutput:
        guider = WeightedGuider(model)
        guider.inner_set_conds({"positive": conditioning, "negative": conditioning})
        guider.set_cfg(1.0)
        guider.set_weight(weight)
        return io.NodeOutput(guider)
