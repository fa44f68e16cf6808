"""Samplers, guiders and callbacks that decide by what differs between processes, or that reach past guided calls."""

import os
import random
import time

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.sample
import comfy.samplers
import numpy
import torch
import torch.distributed as dist

from .samplers import euler

NODES = {}
LATENT_INPUTS = {"model": ("MODEL",), "positive": ("CONDITIONING",), "latent_image": ("LATENT",)}


def node(returns, **inputs):
    def register(cls):
        cls.INPUT_TYPES = classmethod(lambda _: {"required": inputs})
        cls.RETURN_TYPES, cls.FUNCTION, cls.CATEGORY = returns, "make", "foreign"
        NODES[cls.__name__] = cls
        return cls

    return register


def rank():
    """0 in stock ComfyUI."""
    return dist.get_rank() if dist.is_initialized() else 0


def direct_arguments(guider, x, name="positive"):
    """What apply_model takes beside x and sigma, for the first condition of this name."""
    conds = guider.conds[name][0]["model_conds"]
    area = x.shape[2:]
    arguments = {key: value.process_cond(batch_size=x.shape[0], area=area).cond for key, value in conds.items()}
    return {**arguments, "transformer_options": guider.model_options["transformer_options"].copy()}


def guided(model, x, sigma, extra_args):
    return model(x, sigma, **extra_args)


def apply_model(model, x, sigma, extra_args):
    guider = model.inner_model
    return guider.inner_model.apply_model(x, sigma, **direct_arguments(guider, x))


def predict_noise(model, x, sigma, extra_args):
    return model.inner_model.predict_noise(x, sigma, extra_args["model_options"], extra_args["seed"])


def calc_cond_batch(model, x, sigma, extra_args):
    guider = model.inner_model
    conds = [guider.conds["positive"], guider.conds["negative"]]
    first, second = comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigma, extra_args["model_options"])
    return first + 0.1 * second


CALLS = {
    "guided": guided,
    "apply_model": apply_model,
    "predict_noise": predict_noise,
    "calc_cond_batch": calc_cond_batch,
}


class Sampling:
    """Euler that does something of its own in between; picklable, so that it runs in the ranks."""

    def __init__(self, **options):
        self.options = options

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        def before(x, sigma):
            return self.before(model, x, sigma, sigmas, extra_args or {})

        return euler(model, x, sigmas, extra_args or {}, callback, before=before)


def ones(x, sigma):
    return sigma * x.new_ones(x.shape[0])


class Drifting(Sampling):
    """One rank, or all others, makes a further call at one step, and goes on with a bit of its result."""

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        x = super().__call__(model, x, sigmas, extra_args, callback, disable)
        return self.more(model, x, sigmas[-2], extra_args or {}) if self.options["step"] == len(sigmas) - 1 else x

    def before(self, model, x, sigma, sigmas, extra_args):
        at = self.options["step"]
        return self.more(model, x, sigma, extra_args) if at < len(sigmas) - 1 and sigma == sigmas[at] else x

    def more(self, model, x, sigma, extra_args):
        if (rank() == 0) != (self.options["who"] == "rank 0"):
            return x
        return x + 0.1 * CALLS[self.options["call"]](model, x, ones(x, sigma), extra_args)


@node(("SAMPLER",), who=(["rank 0", "others"],), step=("INT", {"default": 1}), call=(list(CALLS),))
class ForeignDrift:
    def make(self, **options):
        return (comfy.samplers.KSAMPLER(Drifting(**options)),)


class Tossing(Sampling):
    """A further call for each bit of the system's randomness; its result is too small to matter."""

    def before(self, model, x, sigma, sigmas, extra_args):
        for _ in range(bin(os.urandom(1)[0] & 7).count("1")):
            x = x + 1e-9 * CALLS[self.options["call"]](model, x, ones(x, sigma), extra_args)
        return x


@node(("SAMPLER",), call=(list(CALLS),))
class ForeignToss:
    def make(self, call):
        return (comfy.samplers.KSAMPLER(Tossing(call=call)),)


class Direct(Sampling):
    """Every step's model call goes past the guider; from a latent that is another one in each rank, and that lies in
    memory as no other does.
    """

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        def called(x, sigma, **extra_args):
            return CALLS[self.options["call"]](model, x, sigma, extra_args)

        x = (x + 0.1 * rank()).to(memory_format=torch.channels_last)
        return euler(called, x, sigmas, extra_args or {}, callback)


@node(("SAMPLER",), call=(list(CALLS),))
class ForeignDirect:
    def make(self, call):
        return (comfy.samplers.KSAMPLER(Direct(call=call)),)


def sample_on_unlike_cards(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """euler_ancestral, whose noise is another one in each rank, as the CUDA generators of unlike GPUs draw it."""
    generator = torch.Generator().manual_seed(11 + rank())

    def noise(sigma, following):
        return torch.randn(x.shape, generator=generator)

    return comfy.k_diffusion.sampling.sample_euler_ancestral(
        model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, noise_sampler=noise
    )


@node(("SAMPLER",))
class ForeignUnlikeCards:
    def make(self):
        return (comfy.samplers.KSAMPLER(sample_on_unlike_cards),)


class Clinging(Drifting):
    """A sampler that does not let itself be ended: it catches everything and calls the model again."""

    def more(self, model, x, sigma, extra_args):
        for _ in range(3):
            try:
                x = super().more(model, x, sigma, extra_args)
            except BaseException:
                continue
        return x


@node(("SAMPLER",), who=(["rank 0", "others"],), step=("INT", {"default": 1}))
class ForeignClinging:
    def make(self, who, step):
        return (comfy.samplers.KSAMPLER(Clinging(who=who, step=step, call="guided")),)


class Raising(Sampling):
    def before(self, model, x, sigma, sigmas, extra_args):
        if sigma == sigmas[1] and self.options["who"] in ("all", f"rank {rank()}"):
            raise ValueError("this sampler fell over")
        return x


@node(("SAMPLER",), who=(["all", "rank 0", "rank 1"],))
class ForeignRaising:
    def make(self, who):
        return (comfy.samplers.KSAMPLER(Raising(who=who)),)


class Drawing(Sampling):
    """Steps a little longer or shorter, drawn from all three global generators."""

    def before(self, model, x, sigma, sigmas, extra_args):
        return x * (1 + 0.1 * (random.random() + numpy.random.rand() + torch.rand(1).item()))


class Drawn:
    """What is common to nodes that seed the global generators and sample."""

    def sample(self, model, positive, latent_image, sampler, seed, callback=None):
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = comfy.sample.prepare_noise(latent, seed)
        torch.manual_seed(seed)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, positive, positive, latent, callback=callback, seed=seed
        )


@node(("LATENT",), **LATENT_INPUTS, seed=("INT", {"default": 7}))
class ForeignDraws(Drawn):
    """Draws while sampling, and goes on to draw from the same generators afterwards."""

    def make(self, model, positive, latent_image, seed):
        samples = self.sample(model, positive, latent_image, comfy.samplers.KSAMPLER(Drawing()), seed)
        after = random.random() + numpy.random.rand() + torch.rand(1).item()
        return ({"samples": samples * (1 + after)},)


@node(
    ("LATENT",), **LATENT_INPUTS, seed=("INT", {"default": 7}),
    what=(["draw", "edit both", "edit x", "edit x0", "slow", "settings"],),
)  # fmt: skip
class ForeignStepCallback(Drawn):
    """A callback that draws where the sampler draws, edits what it is shown, takes its time, or changes settings."""

    def make(self, model, positive, latent_image, seed, what):
        def callback(step, x0, x, total):
            if what == "draw":
                x.mul_(1 + 0.1 * (random.random() + numpy.random.rand() + torch.rand(1).item()))
            if what in ("edit both", "edit x"):
                x.add_(0.1 * x0)
            if what in ("edit both", "edit x0"):
                x0.mul_(0.5)
            if what == "slow" and step == 1:
                time.sleep(9)
            if what == "settings":
                torch.backends.cudnn.benchmark = True

        try:
            samples = self.sample(model, positive, latent_image, comfy.samplers.KSAMPLER(Drawing()), seed, callback)
        finally:
            torch.backends.cudnn.benchmark = False
        return ({"samples": samples},)


def sample_by_settings(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler; every setting of the process leaves its mark on the latent."""
    marks = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.get_float32_matmul_precision() == "high",
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )
    mark = sum(2**bit * on for bit, on in enumerate(marks))
    return euler(model, x, sigmas, extra_args or {}, callback) * (1 + mark)


@node(("LATENT",), **LATENT_INPUTS, change=("BOOLEAN", {"default": True}), seed=("INT", {"default": 7}))
class ForeignSettings(Drawn):
    """Settings of the process, made before sampling and put back after it."""

    def make(self, model, positive, latent_image, change, seed):
        if change:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cuda.enable_flash_sdp(False)
        try:
            samples = self.sample(model, positive, latent_image, comfy.samplers.KSAMPLER(sample_by_settings), seed)
        finally:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
            torch.use_deterministic_algorithms(False)
            torch.backends.cuda.enable_flash_sdp(True)
        return ({"samples": samples},)


class ScheduledGuider(comfy.samplers.CFGGuider):
    """cfg 1 in the first steps, another one in the last."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        self.cfg = 1.0 if timestep[0] > sigmas[len(sigmas) // 2] else 4.0
        return super().predict_noise(x, timestep, model_options, seed)


@node(("GUIDER",), model=("MODEL",), positive=("CONDITIONING",), negative=("CONDITIONING",))
class ForeignScheduledGuider:
    def make(self, model, positive, negative):
        guider = ScheduledGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(1.0)
        return (guider,)


@node(("LATENT",), model=("MODEL",), positive=("CONDITIONING",), negative=("CONDITIONING",), latent_image=("LATENT",))
class ForeignCallbackSetsCfg:
    """A guider that begins at cfg 1, and a callback that sets it higher from step to step."""

    def make(self, model, positive, negative, latent_image):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(1.0)

        def callback(step, x0, x, total):
            guider.set_cfg(2.0 + step)

        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
        noise = comfy.sample.prepare_noise(latent, 7)
        sampler = comfy.samplers.sampler_object("euler")
        return ({"samples": guider.sample(noise, latent, sampler, sigmas, callback=callback, seed=7)},)
