"""Nodes whose functions hold parts of the model, each other, or what they collect for a later node."""

import copy
import functools
import pickle

import comfy.samplers
import torch

NODES = {}


def node(returns=("MODEL",), **inputs):
    def register(cls):
        cls.INPUT_TYPES = classmethod(lambda _: {"required": inputs})
        cls.RETURN_TYPES, cls.FUNCTION, cls.CATEGORY = returns, "make", "foreign"
        NODES[cls.__name__] = cls
        return cls

    return register


def call(function, parameters):
    return function(parameters["input"], parameters["timestep"], **parameters["c"])


class Holder:
    """An object with references into the model, as adapters and caches have them."""

    def __init__(self, diffusion_model):
        self.diffusion_model = diffusion_model
        self.projections = {"in": [diffusion_model.img_in]}
        self.bias = diffusion_model.final_layer.linear.bias

    def scale(self):
        same = self.projections["in"][0] is self.diffusion_model.img_in
        own = self.diffusion_model.final_layer.linear.bias
        return (1.5 if same else 0.0) + self.bias.abs().mean() + own.abs().mean()

    def __call__(self, function, parameters):
        return call(function, parameters) * self.scale()


def with_module(module, factor, function, parameters):
    """The norm of the module's weight counts, so a copy without a LoRA's change gives another result."""
    return call(function, parameters) * (1 + factor * module.weight.norm() / module.weight.numel() ** 0.5)


class Base:
    def __call__(self, args):
        return args["denoised"] * 0.9


class Derived(Base):
    """Keeps a super() object, as wrappers around other classes do."""

    def __init__(self):
        self.parent = super()

    def __call__(self, args):
        return self.parent.__call__(args)


@node(model=("MODEL",), how=(["object", "partial", "bound method", "stored super"],))
class ForeignHolder:
    def make(self, model, how):
        m = model.clone()
        diffusion_model = m.get_model_object("diffusion_model")
        if how == "object":
            m.set_model_unet_function_wrapper(Holder(diffusion_model))
        elif how == "partial":
            m.set_model_unet_function_wrapper(functools.partial(with_module, diffusion_model.img_in, 0.5))
        elif how == "bound method":
            project = diffusion_model.time_in.forward

            def wrapper(function, parameters):
                signal = project(torch.ones(1, 256, dtype=parameters["input"].dtype, device=parameters["input"].device))
                return call(function, parameters) * (1 + signal.std())

            m.set_model_unet_function_wrapper(wrapper)
        else:
            m.set_model_sampler_post_cfg_function(Derived())
        return (m,)


@node(model=("MODEL",))
class ForeignCycle:
    """A function that refers to itself, to another one, and to the MODEL that it patches."""

    def make(self, model):
        m = model.clone()

        def count(steps):
            return 0 if steps == 0 else 1 + count(steps - 1)

        def first(args):
            return second(args) if m is not None else args["denoised"]

        def second(args):
            return args["denoised"] * (0.5 + 0.1 * count(3)) if first is not None else args["denoised"]

        m.set_model_sampler_post_cfg_function(first)
        return (m,)


@node(model=("MODEL",))
class ForeignDeepCopy:
    """Copies the options while it samples, as patches do that run the model once more with others."""

    def make(self, model):
        m = model.clone()

        def again(args):
            options = copy.deepcopy(args["model_options"])
            wrappers = args["model_options"]["transformer_options"].get("wrappers")
            assert options["transformer_options"].get("wrappers") == wrappers
            pickle.loads(pickle.dumps(wrappers))
            (other,) = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"]], args["input"], args["sigma"], options
            )
            return args["denoised"] * 0.5 + other * 0.25

        m.set_model_sampler_post_cfg_function(again)
        return (m,)


class Collector:
    def __init__(self):
        self.means = []
        self.by_step = {"last": None, "all": self.means}
        self.total = torch.zeros(1)

    def __call__(self, args):
        mean = args["denoised"].mean().cpu()
        self.means.append(mean)
        self.by_step["last"] = args["denoised"].to("cpu")
        self.total += mean
        self.latest = mean
        return args["denoised"]


@node(("MODEL", "COLLECTED"), model=("MODEL",), number=("INT", {"default": 0}))
class ForeignCollector:
    """A patch that collects; ForeignCollected, behind the sampler, gives what it has."""

    def make(self, model, number):
        m = model.clone()
        collector, seen = Collector(), []
        count, kept = 0, collector.total

        def also(args):
            nonlocal count
            count += 1
            seen.append(args["sigma"].max().item())
            return args["denoised"]

        m.set_model_sampler_post_cfg_function(collector)
        m.set_model_sampler_post_cfg_function(also)
        return (m, (collector, seen, lambda: count, kept))


@node(("LATENT",), collected=("COLLECTED",), samples=("LATENT",))
class ForeignCollected:
    """One number after the other, in the place of a latent."""

    def make(self, collected, samples):
        collector, seen, count, kept = collected
        assert collector.by_step["all"] is collector.means and kept is collector.total
        last = collector.by_step["last"]
        numbers = torch.cat(
            [torch.stack(collector.means), torch.tensor(seen), torch.tensor([float(count())]), kept.reshape(1),
             collector.latest.reshape(1), last.flatten()]
        )  # fmt: skip
        return ({"samples": numbers.reshape(1, 1, 1, -1).contiguous()},)


@node(model=("MODEL",))
class ForeignCompiledBlocks:
    """As KJNodes' compiling nodes: each block's compiled form in its place, as object patches."""

    def make(self, model):
        m = model.clone()
        for kind in ("double_blocks", "single_blocks"):
            for index in range(len(getattr(m.get_model_object("diffusion_model"), kind))):
                path = f"diffusion_model.{kind}.{index}"
                m.add_object_patch(path, torch.compile(m.get_model_object(path)))
        return (m,)


FACTOR = 1.0
CALLS = {"count": 0, "sigmas": [], "last": torch.zeros(1)}


class Settings:
    offset = 0.0


def with_module_state(args):
    CALLS["count"] += 1
    CALLS["sigmas"].append(args["sigma"].max().item())
    CALLS["last"] = args["denoised"].mean().reshape(1).cpu()
    return args["denoised"] * FACTOR + Settings.offset


@node(model=("MODEL",), factor=("FLOAT", {"default": 0.8}), offset=("FLOAT", {"default": 0.05}))
class ForeignModuleState:
    """Sets variables of its module and of a class, which its function reads and changes while it samples."""

    def make(self, model, factor, offset):
        global FACTOR
        FACTOR, Settings.offset = factor, offset
        CALLS.update(count=0, sigmas=[])
        m = model.clone()
        m.set_model_sampler_post_cfg_function(with_module_state)
        return (m,)


@node(("LATENT",), samples=("LATENT",))
class ForeignModuleStateRead:
    def make(self, samples):
        numbers = torch.tensor([float(CALLS["count"]), *CALLS["sigmas"]])
        return ({"samples": torch.cat([numbers, CALLS["last"]]).reshape(1, 1, 1, -1)},)


@node(model=("MODEL",), theta=("INT", {"default": 500}))
class ForeignAttributePatch:
    """Another number by which a module computes, as an object patch."""

    def make(self, model, theta):
        m = model.clone()
        m.add_object_patch("diffusion_model.pe_embedder.theta", theta)
        return (m,)
