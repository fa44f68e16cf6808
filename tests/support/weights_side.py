"""What a rank does with a model whose weights are divided: runs it, and holds its output against the whole one's."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import torch

from support.guided_side import GuidedCall
from support.model_side import ModelSide, run
from support.parity import relative_error


class Holder(torch.nn.Module):
    """Stands where ComfyUI has a BaseModel."""

    def __init__(self, diffusion_model: torch.nn.Module):
        super().__init__()
        self.diffusion_model = diffusion_model


STRENGTHS = (None, 1.0, 0.5, None)  # of a LoRA, one request after another


@dataclass(frozen=True)
class Figures:
    """Of one rank, in bytes. `held`: what Weights says; `allocated`: storages of cuts, buffers and whole parameters;
    `replicated`: of the whole model; `divided`: of its blocks; `largest`: of the largest block.
    """

    held: int
    allocated: int
    replicated: int
    divided: int
    largest: int


class WeightsSide(ModelSide):
    """Answers ("divided", case name, ulysses, ring, offload), ("compiled and divided", case name, ulysses),
    ("files", model, lora, axis, world size, weights), ("over groups", case name, ...) and
    ("one group fails", case name, ...) too, as the methods say.
    """

    def __init__(self):
        super().__init__()
        from xdit_comfyui.parallel_backend.rank.weights.weight_groups import WeightGroups

        self._groups = WeightGroups(torch.device("cpu"))

    def answer(self, verb: str, name: str, *arguments):
        if verb == "divided":
            return self._divided(self._cases[name], *arguments)
        if verb == "compiled and divided":
            return self._compiled_and_divided(self._cases[name], *arguments)
        if verb == "files":
            return self._files(name, *arguments)
        if verb == "over groups":
            return self._over_groups(self._cases[name], *arguments)
        if verb == "one group fails":
            return self._one_group_fails(self._cases[name], *arguments)
        return super().answer(verb, name, *arguments)

    def _divided(self, case, ulysses: int, ring: int, offload: bool) -> tuple[float, bool, list[str]]:
        """The error of a model call against one device, whether calls in two requests gave exactly what replicated
        weights give, and the parameters that are not stand-ins between calls.
        """
        import torch.distributed as dist
        from xdit_comfyui.parallel_backend.contract.config import Degrees

        model = case.model()
        whole = self._whole_output(case, model)
        sharded = self._sharded(model, ulysses, ring)
        replicated = run(model, case)
        weights = self._divide(model, sharded.plan, Degrees(ulysses, ring), offload)
        sharded.whole_weights = False
        outputs = [run(model, case) for _ in range(2)]
        weights.stop()
        if dist.get_rank() == 0:  # another rank goes on with what it has
            weights.release()
            weights.materialise()
        weights.start(self._groups.get(Degrees(ulysses, ring)))
        outputs += [run(model, case) for _ in range(2)]
        weights.stop()
        inside = [
            name
            for name, parameter in model.named_parameters()
            if weights.held(f"diffusion_model.{name}").value == "cut" and not parameter.isnan().all()
        ]
        return relative_error(outputs[0], whole), all(torch.equal(one, replicated) for one in outputs), inside

    def _compiled_and_divided(self, case, ulysses: int) -> tuple[float, int, int, list[str]]:
        """The error of a compiled call, how many graphs were compiled for replicated weights, and how many more when
        these were divided, and the notes.
        """
        from torch._dynamo.utils import counters
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.contract.config import Degrees

        torch._dynamo.reset()  # what other cases compiled in these ranks
        model, notes = case.model(), []
        whole = self._whole_output(case, model)
        sharded = self._sharded(model, ulysses, 1)
        sharded.whole_weights = False  # else modulations, which only then are divided too, would be compiled apart
        accelerate(model, sharded, backend="aot_eager").start(notes.append, (), graphs=False)
        begin = counters["stats"]["unique_graphs"]
        run(model, case)
        replicated = counters["stats"]["unique_graphs"]
        weights = self._divide(model, sharded.plan, Degrees(ulysses), offload=False)
        output = [run(model, case) for _ in range(3)][-1]
        weights.stop()
        divided = counters["stats"]["unique_graphs"]
        return relative_error(output, whole), replicated - begin, divided - replicated, notes

    def _over_groups(
        self, case, cfg: int, batch: int, counts: tuple[int, ...], offload: bool, lacking: str, idle: int
    ) -> tuple[float, bool, int]:
        """The error of a guided call against one device, whether calls in two requests gave exactly what whole weights
        give on the same groups, and how many rows were evaluated here in one of them.

        `counts`: of how many parts each condition consists; `lacking`: an input that the first one alone has;
        `idle`: a rank that never runs the model, as with a step cache, or -1.
        """
        import torch.distributed as dist

        model = case.model()
        call = GuidedCall(model, case)
        call.conds = [[call.conds[i % 2][0]] * count or None for i, count in enumerate(counts)]
        for cond in call.conds[1:]:
            for part in cond or ():
                part["model_conds"].pop(lacking, None)
        whole = call.run([])
        if idle == dist.get_rank():
            call.apply_model = lambda x, timestep, **inputs: torch.zeros_like(x)
        mesh = self._mesh(1, 1, cfg, batch)
        replicated = call.run(self._dividers(mesh))
        weights = self._divide(model, self._plan(model), mesh.degrees, offload)
        outputs = []
        for _ in range(2):
            with self._lock_step(weights, mesh) as lock_step:
                outputs += [call.run(self._dividers(mesh, lock_step)) for _ in range(2)]
            weights.stop()
            weights.start(self._groups.get(mesh.degrees))
        weights.stop()
        return relative_error(replicated, whole), all(torch.equal(one, replicated) for one in outputs), call.seen

    def _one_group_fails(self, case, cfg: int, batch: int, failing: int, place: str) -> tuple[str, bool]:
        """What a guided call raised here when one rank did in its last "block" or while its "rows" were cut out, and
        whether the next call is right.
        """
        import torch.distributed as dist

        model = case.model()
        call = GuidedCall(model, case)
        mesh = self._mesh(1, 1, cfg, batch)
        replicated = call.run(self._dividers(mesh))
        weights = self._divide(model, self._plan(model), mesh.degrees, offload=False)
        with self._lock_step(weights, mesh) as lock_step:
            wrappers, raised, failure = self._dividers(mesh, lock_step), "", contextlib.nullcontext()
            if dist.get_rank() == failing:
                failure = fails(weights.blocks.units[-1].module)
                if place == "rows":
                    failure = mock.patch.object(wrappers[-2], "_cut", fall_over)
            with failure:
                try:
                    call.run(wrappers)
                except (RuntimeError, ValueError) as error:
                    raised = f"{type(error).__name__}: {error}"
            right = torch.equal(call.run(wrappers), replicated)
        weights.stop()
        return raised, right

    def _dividers(self, mesh, lock_step=None) -> list:
        from xdit_comfyui.parallel_backend.rank.run.sampling import dividers

        return dividers(mesh, unexpected, lock_step)

    def _lock_step(self, weights, mesh):
        from xdit_comfyui.parallel_backend.rank.weights.lock_step import in_lock_step

        return in_lock_step([SimpleNamespace(model=SimpleNamespace(xdit_weights=weights))], mesh.active, mesh.degrees)

    def _plan(self, model: torch.nn.Module):
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        return plan_for(model)

    def _sharded(self, model: torch.nn.Module, ulysses: int, ring: int):
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        sharded = ShardedModel(model, plan_for(model))
        sharded.session = Session(self._mesh(ulysses, ring).sp)
        return sharded

    def _divide(self, model: torch.nn.Module, plan, degrees, offload: bool):
        """Weights of `model`, divided and started."""
        import torch.distributed as dist
        from xdit_comfyui.parallel_backend.rank.weights.model_weights import Weights
        from xdit_comfyui.parallel_backend.rank.weights.placement import divided

        weights = Weights(Holder(model), torch.device("cpu"), type(model).__qualname__)
        weights.place(divided(model, plan, degrees, dist.get_rank(), offload))
        weights.materialise()
        weights.start(self._groups.get(degrees))
        return weights

    def _files(
        self, model: str, lora: str, axis: str, size: int, weights: str
    ) -> tuple[list[torch.Tensor], list[bool], Figures]:
        """A model file's outputs with replicated weights at each of STRENGTHS, whether divided weights gave the very
        same ones, and the rank's figures.
        """
        import comfy.model_management
        import comfy.sd
        import comfy.utils
        import torch.distributed as dist
        from xdit_comfyui.parallel_backend.contract.config import Degrees
        from xdit_comfyui.parallel_backend.contract.recipe import Recipe
        from xdit_comfyui.parallel_backend.rank.process.main import attach_plan
        from xdit_comfyui.parallel_backend.rank.weights.model_store import ModelStore
        from xdit_comfyui.parallel_backend.rank.weights.placement import REPLICATED, Held, place

        degrees = Degrees(**{axis: size})
        store = ModelStore(torch.device("cpu"), attach_plan)
        base = store.base(Recipe(comfy.sd.load_diffusion_model, (model,)).identity())
        lora = comfy.utils.load_torch_file(lora)
        adapted = [
            base.clone() if strength is None else comfy.sd.load_lora_for_models(base, None, lora, strength, 0)[0]
            for strength in STRENGTHS
        ]
        owned = base.model.xdit_weights
        outputs = {}
        for mode in ("replicate", weights):
            outputs[mode] = []
            for patcher in adapted:
                place([patcher], mode, degrees, dist.get_rank())
                comfy.model_management.load_models_gpu([patcher])
                owned.start(self._groups.get(degrees))
                args, kwargs = self._cases["flux: plain"].inputs()
                outputs[mode].append(base.model.diffusion_model(*args, **kwargs, transformer_options={}))
                owned.stop()
            if mode == "replicate":
                replicated = owned.nbytes
        same = [torch.equal(*pair) for pair in zip(outputs["replicate"], outputs[weights], strict=True)]
        blocks = owned.blocks
        sizes = [sum(one.nbytes for one in unit.stored) for unit in blocks.units]
        tensors = [*blocks._cuts.values(), *(slot.buffer for slot in blocks._slots)]
        allocated = sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
        whole = sum(one.nbytes for name, one in owned._stored.items() if owned.held(name) is Held.WHOLE)
        figures = Figures(owned.nbytes, allocated + whole, replicated, sum(sizes), max(sizes))
        base.place(REPLICATED)
        return outputs["replicate"], same, figures


@contextlib.contextmanager
def fails(module: torch.nn.Module):
    """`module` raises as soon as it is run."""
    hook = module.register_forward_pre_hook(fall_over)
    try:
        yield
    finally:
        hook.remove()


def fall_over(*_) -> None:
    raise ValueError("this rank fell over")


def unexpected(line: str) -> None:
    raise AssertionError(line)
