"""What a rank does with a ModelCase: runs it whole and sharded, and says how far the two are apart."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from support.comfy import import_comfy
from support.foreign_code import flagged, foreign
from support.guided_side import GuidedCall
from support.node_attention_side import Overridden
from support.parity import relative_error
from support.pipeline_side import IDENTITY, LinearRuns, StaleAttention, run_steps

TREE = "XDIT_TEST_COMFYUI"


class ModelSide:
    """Answers ("parity", case name, ulysses, ring, mode, exchange), ("guided", case name, cfg, batch, ulysses),
    ("compiled", case name, ulysses, ring, compiler backend), ("announced", case name, compiler backend),
    ("node attention", case name, ...), ("pipeline", case name, ...), ("through", case name, ...),
    ("once", case name, ...), ("modulations", case name, ...), ("foreign", case name, ...) and ("flagged", case name,
    ...) as the methods and functions say.
    """

    @staticmethod
    def prepare() -> None:
        import_comfy(Path(os.environ[TREE]))
        import comfy.model_base  # noqa: F401 - every model's class
        import comfy.sd  # noqa: F401
        import models.cases  # noqa: F401

    def __init__(self):
        from models.cases import CASES, PIPELINED

        self._cases = CASES | PIPELINED
        self._meshes = None
        self._whole = {}

    def answer(self, verb: str, name: str, *arguments) -> float:
        verbs = {
            "parity": self._parity,
            "guided": self._guided,
            "compiled": self._compiled,
            "pipeline": self._pipeline,
            "once": self._once,
            "modulations": self._modulations,
            "announced": self._announced,
            "node attention": self._node_attention,
            "through": self._through,
            "foreign": functools.partial(foreign, self),
            "flagged": functools.partial(flagged, self),
        }
        return verbs[verb](self._cases[name], *arguments)

    def _parity(self, case, ulysses: int, ring: int, mode: str, exchange: bool = True) -> float:
        """‖sharded - whole‖ / ‖whole‖ of the case's output. Without `exchange` attention stays local (a control)."""
        from xdit_comfyui.parallel_backend.sharding.engine import attention_override
        from xdit_comfyui.parallel_backend.sharding.engine.call_modes import Mode
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        model = case.model()
        whole = self._whole_output(case, model)
        sharded = ShardedModel(model, plan_for(model))
        sharded.session = Session(self._mesh(ulysses, ring).sp, mode=None if mode == "auto" else Mode(mode))
        local = mock.patch.object(
            attention_override,
            "sequence_parallel_attention",
            lambda q, k, v, *, kernel, mask=None, **_: kernel(q, k, v, None),
        )
        control = contextlib.nullcontext() if exchange else local
        with control:
            output = run(model, case)
        assert not sharded.session.notes, sharded.session.notes
        return relative_error(output, whole)

    def _compiled(self, case, ulysses: int, ring: int, backend: str = "aot_eager") -> tuple[float, list[str]]:
        """The error with compiled blocks, and what they say.

        "aot_eager": traced and functionalised as ever, run without code generation.
        """
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        with torch.inference_mode():
            model = case.model()
            whole = self._whole_output(case, model)
            sharded = ShardedModel(model, plan_for(model))
            sharded.session = Session(self._mesh(ulysses, ring).sp) if ulysses * ring > 1 else None
            accelerated, notes = accelerate(model, sharded, backend=backend), []
            accelerated.start(notes.append, (), graphs=False)
            output = run(model, case)
        return relative_error(output, whole), notes

    def _node_attention(
        self, case, ulysses: int, ring: int, mode: str, backend: str = ""
    ) -> tuple[float, float, list[str]]:
        """With attention by `by_place`: the error, how far that is from the model's own attention, and the notes.
        `backend`: compile the blocks, too.
        """
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.sharding.engine.call_modes import Mode
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        with torch.inference_mode():
            model, overridden = case.model(), Overridden(case)
            plain, whole = self._whole_output(case, model), run(model, overridden)
            sharded = ShardedModel(model, plan_for(model))
            mesh = self._mesh(ulysses, ring)
            session = sharded.session = Session(mesh.sp, mode=None if mode == "auto" else Mode(mode))
            if backend:
                accelerate(model, sharded, backend=backend).start(lambda line: None, (), graphs=False)
            output = run(model, overridden)
        return relative_error(output, whole), relative_error(whole, plain), session.notes

    def _announced(self, case, backend: str) -> tuple[float, int, int]:
        """The error with compiled blocks in a ring whose ranks write into each other's memory, how often keys and
        values were announced, and the number of exchanges.
        """
        from sharding.shared_files import in_shared_files
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.sharding.attention.direct_ring import DirectRing
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        in_shared_files()
        sp = self._mesh(1, dist.get_world_size()).sp
        direct = DirectRing(sp.ring, sp.ring_rank, sp.ring_size, torch.device("cpu"))
        counted = mock.patch.object(direct, "bring_together", wraps=direct.bring_together)
        others = mock.patch.object(direct, "exchange", wraps=direct.exchange)
        with torch.inference_mode(), counted as announced, others as exchanged:
            model = case.model()
            whole = self._whole_output(case, model)
            sharded = ShardedModel(model, plan_for(model))
            sharded.session = Session(replace(sp, direct=direct))
            accelerate(model, sharded, backend=backend).start(lambda line: None, (), graphs=False)
            output = run(model, case)
        return relative_error(output, whole), announced.call_count, announced.call_count + exchanged.call_count

    def _pipeline(
        self,
        case,
        stages: int,
        ulysses: int,
        patches: int,
        warmup: int,
        steps: int,
        segments: dict,
        compiled: bool = False,
    ) -> tuple[float, float, list[str]]:
        """The error of the last of `steps` model calls against one device with the same staleness, against one device
        without, and the notes. `segments` as in StaleAttention; `compiled`: the blocks of the pipeline are.
        """
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.foreign.kernel_choice import OVERRIDE
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        model = case.model()
        exact = run_steps(model, case, steps, {})
        stale = StaleAttention(segments, patches, ulysses, exact_calls=max(1, warmup))
        reference = run_steps(model, case, steps, {OVERRIDE: stale}, stale.next_call)
        sharded = ShardedModel(model, plan_for(model))
        said = []
        with torch.inference_mode() if compiled else contextlib.nullcontext():
            if compiled:
                accelerate(model, sharded, backend="aot_eager").start(said.append, (), graphs=False)
            found, notes = self._staged_steps(case, sharded, stages, ulysses, patches, warmup, steps)
        return relative_error(found[-1], reference[-1]), relative_error(found[-1], exact[-1]), said + notes

    def _through(self, case, stages: int, patches: int) -> tuple[bool, list[int], list[list[str]]]:
        """A pipeline whose hidden states go through mailboxes, beside one of which a rank cannot map them: whether all
        of three model calls give the very same, the hand-overs through mailboxes that this rank begins in the one and
        in the other, and their notes.
        """
        from sharding.mailbox_side import failing_step
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.exchange import collective_counts
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        outputs, begun, said = [], [], []
        for failing in ("", "mapping" if dist.get_rank() == 1 else ""):
            self._meshes = None
            model = case.model()
            before = _mailboxes(collective_counts.begun())
            with failing_step(failing):
                found, notes = self._staged_steps(case, ShardedModel(model, plan_for(model)), stages, 1, patches, 1, 3)
            outputs.append(found)
            begun.append(_mailboxes(collective_counts.begun()) - before)
            said.append(notes)
        self._meshes = None
        return all(map(torch.equal, *outputs)), begun, said

    def _once(
        self, case, stages: int, patches: int, compiled: bool
    ) -> tuple[float, dict[str, int], dict[str, int], list[str]]:
        """A pipeline as its plan says, beside one in which every patch computes all: the error of the last of three
        model calls, how often each Linear of the one and of the other ran in it, and the notes.
        """
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        plan = plan_for(case.model())
        each = replace(without_modulations(plan), once=())
        outputs, runs, said = [], [], []
        for made in (plan, each):
            model = case.model()
            counted, sharded = LinearRuns(model), ShardedModel(model, made)
            with torch.inference_mode():
                if compiled:
                    accelerate(model, sharded, backend=counted.backend).start(said.append, (), graphs=False)
                found, notes = self._staged_steps(case, sharded, stages, 1, patches, 1, 3, counted.runs.clear)
            outputs.append(found[-1])
            runs.append(dict(counted.runs))
            said += notes
        return relative_error(*outputs), *runs, said

    def _modulations(
        self, case, degrees: tuple[int, int, int], mode: str, compiled: bool, adapted: bool
    ) -> tuple[bool, dict[str, int], dict[str, int], list[int]]:
        """Sharded as the plan says, beside all modulations computed by every rank: whether two calls give the very same
        as one, how often each Linear of the one and of the other ran in the second call, and how many graphs were
        compiled for each.

        degrees: ulysses, ring and cfg. `adapted`: every Linear is, as adapt_linears does.
        """
        from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
        from xdit_comfyui.parallel_backend.sharding.engine.call_modes import Mode
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        ulysses, ring, cfg = degrees
        plan = plan_for(case.model())
        outputs, runs, graphs, notes = [], [], [], []
        for made in (plan, without_modulations(plan)):
            torch._dynamo.reset()
            model = case.model()
            if adapted:
                adapt_linears(model)
            counted, sharded = LinearRuns(model), ShardedModel(model, made)
            sharded.session = Session(self._mesh(ulysses, ring, cfg).sp, mode=Mode(mode))
            with torch.inference_mode():
                if compiled:
                    accelerate(model, sharded, backend=counted.backend).start(notes.append, (), graphs=False)
                for _ in range(2):
                    counted.runs.clear()
                    outputs.append(run(model, case))
            runs.append(dict(counted.runs))
            graphs.append(counted.graphs)
            assert not notes + sharded.session.notes, notes + sharded.session.notes
        return all(torch.equal(output, outputs[-1]) for output in outputs), *runs, graphs

    def _staged_steps(
        self, case, sharded, stages: int, ulysses: int, patches: int, warmup: int, steps: int, each=lambda: None
    ) -> tuple[list[torch.Tensor], list[str]]:
        """The outputs of the model calls as a pipeline, before each of which `each` is called, and the notes."""
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.pipeline.pipelined_model import PipelinedModel
        from xdit_comfyui.parallel_backend.sharding.pipeline.schedule import Schedule

        mesh = self._mesh(ulysses, 1, pipefusion=stages)
        session = sharded.session = Session(mesh.sp)
        schedule = Schedule(patches, warmup, steps)
        pipelined = PipelinedModel(sharded, mesh.pipe, schedule, session.note)

        def before_step(step: int) -> None:
            schedule.done = step
            each()

        pipelined.start()
        try:
            found = run_steps(sharded.model, case, steps, IDENTITY, before_step)
        finally:
            pipelined.stop()
            sharded.session = None
        return found, session.notes

    def _whole_output(self, case, model) -> torch.Tensor:
        if case.name not in self._whole:
            self._whole[case.name] = run(model, case)
        return self._whole[case.name]

    def _guided(self, case, cfg: int, batch: int, ulysses: int) -> float:
        """The same error for two conditions × two rows, each group of ranks evaluating only its own."""
        from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
        from xdit_comfyui.parallel_backend.sharding.engine.session import Session
        from xdit_comfyui.parallel_backend.sharding.guided.batch import BatchParallel
        from xdit_comfyui.parallel_backend.sharding.guided.cfg import CfgParallel
        from xdit_comfyui.parallel_backend.sharding.plans import plan_for

        model = case.model()
        call = GuidedCall(model, case)
        whole, evaluated = call.run([]), call.seen
        mesh = self._mesh(ulysses, 1, cfg, batch)
        session = Session(mesh.sp)
        if ulysses > 1:
            ShardedModel(model, plan_for(model)).session = session
        dividers = [CfgParallel(mesh.cfg, session.note)] if cfg > 1 else []
        divided = call.run(dividers + ([BatchParallel(mesh.batch, session.note)] if batch > 1 else []))
        assert not session.notes, session.notes
        assert call.seen * cfg * batch == evaluated, f"{call.seen} of {evaluated} rows evaluated here"
        return relative_error(divided, whole)

    def _mesh(self, ulysses: int, ring: int, cfg: int = 1, batch: int = 1, pipefusion: int = 1):
        from xdit_comfyui.parallel_backend.contract.config import Degrees
        from xdit_comfyui.parallel_backend.rank.run.mesh import Meshes

        self._meshes = self._meshes or Meshes(torch.device("cpu"))
        return self._meshes.get(Degrees(ulysses, ring, cfg, batch, pipefusion))


def run(model: torch.nn.Module, case) -> torch.Tensor:
    args, kwargs = case.inputs()
    kwargs.setdefault("transformer_options", {})
    output = model(*args, **kwargs)
    if isinstance(output, tuple | list):
        output = torch.cat([part.flatten() for part in output])
    return output


def _mailboxes(begun: dict[str, int]) -> int:
    return sum(count for name, count in begun.items() if name.endswith(" mailbox"))


def without_modulations(plan):
    """The plan, whose blocks compute everything themselves."""
    return replace(plan, blocks=tuple(replace(blocks, once={}) for blocks in plan.blocks))


def adapt_linears(model: torch.nn.Module) -> None:
    """Every Linear of the model adds to its output, as comfy.weight_adapter.bypass has it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = functools.partial(lambda original, x: original(x) * 1.25, module.forward)
