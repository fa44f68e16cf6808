"""Sampling algorithms and sampler nodes in the ways that node packs use."""

import random

import comfy.model_management
import comfy.sample
import comfy.samplers

NODES = {}


def node(returns, **inputs):
    def register(cls):
        cls.INPUT_TYPES = classmethod(lambda _: {"required": inputs})
        cls.RETURN_TYPES, cls.FUNCTION, cls.CATEGORY = returns, "make", "foreign"
        NODES[cls.__name__] = cls
        return cls

    return register


def euler(model, x, sigmas, extra_args, callback, before=None, after=None):
    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        if before is not None:
            x = before(x, sigma)
        denoised = model(x, sigma * x.new_ones(x.shape[0]), **extra_args)
        if callback is not None:
            callback({"x": x, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        x = x + (x - denoised) / sigma * (following - sigma)
        if after is not None:
            after(x, denoised, sigma)
    return x


def sample_with_state(model, x, sigmas, extra_args=None, callback=None, disable=None, state_out=None):
    """Euler that tells the node what it ended with."""

    def after(x, denoised, sigma):
        state_out.update(raw_x=x.to("cpu"), denoised=denoised.to("cpu"), sigma=sigma.item())

    return euler(model, x, sigmas, extra_args or {}, callback, after=after)


@node(
    ("LATENT", "LATENT"),
    model=("MODEL",), positive=("CONDITIONING",), latent_image=("LATENT",), steps=("INT", {"default": 4}),
    seed=("INT", {"default": 7}),
)  # fmt: skip
class ForeignStateSampler:
    """Samples, and gives the raw state that its sampler left in its options (as chained samplers of RES4LYF do)."""

    def make(self, model, positive, latent_image, steps, seed):
        state = {}
        sampler = comfy.samplers.KSAMPLER(sample_with_state, {"state_out": state})
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = comfy.sample.prepare_noise(latent, seed)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        samples = comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, positive, positive, latent, seed=seed)
        raw = sampler.extra_options["state_out"]["raw_x"]
        return ({"samples": samples}, {"samples": raw})


def sample_by_chance(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Now and then a step is done in two: decided by Python's own generator, which nobody seeded."""

    def before(x, sigma):
        if random.random() < 0.5:
            again = model(x, sigma * x.new_ones(x.shape[0]), **(extra_args or {}))
            return x + 1e-9 * again
        return x

    return euler(model, x, sigmas, extra_args or {}, callback, before=before)


@node(("SAMPLER",))
class ForeignChanceSampler:
    def make(self):
        return (comfy.samplers.KSAMPLER(sample_by_chance),)


@node(
    ("LATENT",),
    model=("MODEL",), positive=("CONDITIONING",), latent_image=("LATENT",), steps=("INT", {"default": 20}),
    at=("INT", {"default": 2}), what=(["raise", "interrupt", "edit x", "edit x0"],),
)  # fmt: skip
class ForeignCallback:
    """Samples with a callback that stops early, or that changes the latent it is shown."""

    def make(self, model, positive, latent_image, steps, at, what):
        def callback(step, x0, x, total_steps):
            if step != at:
                return
            if what == "raise":
                raise ValueError(f"enough at step {step}")
            if what == "interrupt":
                raise comfy.model_management.InterruptProcessingException()
            (x if what == "edit x" else x0).mul_(0.5)

        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = comfy.sample.prepare_noise(latent, 7)
        samples = comfy.sample.sample(
            model, noise, steps, 1.0, "euler", "simple", positive, positive, latent, callback=callback, seed=7
        )
        return ({"samples": samples},)


def sample_with_drawn_steps(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler with steps a little longer or shorter, drawn from Python's generator (as RES4LYF's coefficients)."""
    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        denoised = model(x, sigma * x.new_ones(x.shape[0]), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        x = x + (x - denoised) / sigma * (following - sigma) * random.uniform(0.8, 1.0)
    return x


@node(
    ("LATENT",),
    model=("MODEL",), positive=("CONDITIONING",), latent_image=("LATENT",), steps=("INT", {"default": 4}),
    seed=("INT", {"default": 7}),
)  # fmt: skip
class ForeignSeededSampler:
    """Seeds Python's generator before it samples, as nodes do that want the same result again."""

    def make(self, model, positive, latent_image, steps, seed):
        random.seed(seed)
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = comfy.sample.prepare_noise(latent, seed)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        sampler = comfy.samplers.KSAMPLER(sample_with_drawn_steps)
        samples = comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, positive, positive, latent, seed=seed)
        return ({"samples": samples},)
