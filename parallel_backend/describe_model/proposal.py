"""A sharding plan that follows from what was observed of a model, and what a person has to look at in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..sharding.plan.argument_kinds import Grid, Positions, Rows, Tokens
from ..sharding.plan.plan import Blocks, Gather, Plan, class_path
from .observed import BOTH, IMAGE, TEXT, Attention, ModuleCall, Observed, Tensor

ALL = ("all",)
VARIADIC = ("args", "kwargs", "**")
HEADS = ("num_heads", "heads", "n_heads", "num_attention_heads", "params.num_heads")


class NoProposal(ValueError):
    """Nothing of the model can be divided by tokens, as far as was seen."""


@dataclass
class Proposal:
    """`look_at`: what the calls do not tell."""

    plan: Plan
    look_at: list[str] = field(default_factory=list)


def propose(model: torch.nn.Module, seen: Observed) -> Proposal:
    """Raises NoProposal, saying why."""
    return _Proposing(model, seen).proposal()


class _Proposing:
    def __init__(self, model: torch.nn.Module, seen: Observed):
        self._model = model
        self._seen = seen
        self._notes: list[str] = []
        self._hidden = {path: _hidden(calls[0]) for path, calls in seen.lists.items()}
        planned = [path for path in seen.lists if self._works_on_the_image(path)]
        joint = any(set(self._hidden[path].values()) >= {IMAGE, TEXT} for path in planned)
        mixed = [path for path in planned if BOTH in self._hidden[path].values()]
        if mixed and not joint:  # refiners of the image alone run before its tokens join the others
            self._notes += [
                f"{path}: works on the image's tokens before they join the text's, and is left whole here"
                for path in planned
                if path not in mixed
            ]
            planned = mixed
        self._planned = planned
        self._joint = joint
        self._order = _order(seen) if joint else (IMAGE,)

    def proposal(self) -> Proposal:
        seen = self._seen
        if not seen.lists:
            raise NoProposal("no list of blocks calls ComfyUI's attention")
        if not self._planned:
            raise NoProposal(
                "no list of blocks takes and returns hidden states whose number changes with the size of the latent"
            )
        for path in seen.lists:
            if path not in self._planned and not any(path in note for note in self._notes):
                self._notes.append(f"{path}: its tokens do not depend on the latent; every rank runs it whole")
        for path in seen.direct:
            self._notes.append(f"{path}: calls torch's attention itself, which cannot be exchanged between ranks")
        blocks = tuple(self._blocks(path) for path in self._planned)
        functions = [
            one.function
            for path in self._planned
            for call in seen.lists[path]
            for one in call.attention
            if one.function
        ]
        plan = Plan(
            model=class_path(self._model),
            blocks=blocks,
            gathers=(self._gather(),),
            heads=self._heads(),
            attention_globals=tuple(dict.fromkeys(functions)),
        )
        return Proposal(plan, self._notes)

    def _works_on_the_image(self, path: str) -> bool:
        return any(tokens in (IMAGE, BOTH) for tokens in self._hidden[path].values())

    def _segments(self, tokens: str) -> tuple[str, ...]:
        if self._joint:
            return self._order if tokens == BOTH else (tokens,)
        mixed = any(BOTH in self._hidden[path].values() for path in self._planned)
        return ALL if mixed else (tokens,)

    def _blocks(self, path: str) -> Blocks:
        call, hidden = self._seen.lists[path][0], self._hidden[path]
        arguments = {}
        for name, value in call.arguments.items():
            kind = self._kind(path, name, value, hidden)
            if kind is not None:
                arguments[name] = kind
        if absent := [name for name, value in call.arguments.items() if value is None]:
            self._notes.append(f"{path}: {', '.join(absent)} not given in these calls: what holds tokens is named, too")
        if any(name in call.arguments for name in VARIADIC):
            self._notes.append(
                f"{path}: its forward takes *args or **kwargs: `signature` says which function they are passed to, and"
                " arguments have its names"
            )
        exchanged = [one for one in call.attention if self._is_exchanged(one, hidden)]
        local = [one for one in call.attention if not self._is_exchanged(one, hidden)]
        if not exchanged:
            self._notes.append(f"{path}: no attention over all of its tokens was seen; a plan needs one")
        per_call = [self._segments(_tokens_of(one.q)) for one in exchanged] or [self._order]
        then = tuple(per_call[1:]) if any(one != per_call[0] for one in per_call) else ()
        return Blocks(
            path,
            arguments,
            attention=per_call[0],
            returns=self._returns(call),
            local=self._local(path, local, exchanged),
            then=then,
        )

    def _kind(self, path: str, name: str, value: Any, hidden: dict[str, str]) -> Any:
        first = next((item for item in value if isinstance(item, Tensor)), None) if isinstance(value, tuple) else value
        if first is not None and not isinstance(first, Tensor) and getattr(first, "tokens", None):
            self._notes.append(
                f"{path}: {name} is a number of tokens ({first}): if rows are cut off by it, see Cut and Used"
            )
        if not isinstance(first, Tensor) or not (dims := first.token_dims()):
            return None
        tokens = first.dims[dims[0]].tokens
        if name in hidden:
            if len(dims) > 1:
                return Grid(self._segments(tokens), max(dims[0] - 1, 1) if dims[0] > 1 else dims[0])
            return Rows(*self._segments(tokens)) if dims[0] == 0 else Tokens(*self._segments(tokens))
        if tokens == TEXT and TEXT not in hidden.values():
            return None  # a context, which every rank has whole
        if len(dims) > 1:
            self._notes.append(f"{path}: {name} {first} is left as it is: a mask over whole sequences may stay")
            return None
        self._notes.append(
            f"{path}: {name} {first} is taken for positions; if the blocks index it otherwise, see the table of kinds"
        )
        return Positions(self._segments(tokens), dims[0])

    def _returns(self, call: ModuleCall) -> tuple[tuple[str, ...] | None, ...]:
        segments = [
            self._segments(value.dims[value.token_dims()[0]].tokens)
            if isinstance(value, Tensor) and value.token_dims()
            else None
            for value in call.outputs
        ]
        return tuple(segments)

    def _is_exchanged(self, one: Attention, hidden: dict[str, str]) -> bool:
        """Whether queries and keys both are the block's tokens."""
        q, k = _tokens_of(one.q), _tokens_of(one.k)
        return q == k and q in {*hidden.values(), BOTH}

    def _local(self, path: str, local: list[Attention], exchanged: list[Attention]) -> tuple[str, ...]:
        names = []
        for one in local:
            top = one.inside.partition(".")[0]
            name = one.inside if any(other.inside.partition(".")[0] == top for other in exchanged) else top
            if name:
                names.append(name)
            else:
                self._notes.append(
                    f"{path}: attends to {one.k} by itself, not in a submodule that `local` could name: it would be"
                    " exchanged. The block cannot be divided so"
                )
        return tuple(dict.fromkeys(names))

    def _gather(self) -> Gather:
        last = self._planned[-1]
        hidden = next(tokens for tokens in self._hidden[last].values() if tokens in (IMAGE, BOTH))
        for call in self._seen.after:
            found = _works_token_by_token(call)
            if found is None:
                continue
            if self._segments(hidden) == ALL and found != BOTH:
                break  # the model cut the image out of the sequence by the length of the text, as every rank saw it
            self._notes.append(
                f"{call.path}: taken as the module behind the last block that works token by token; read it"
            )
            arguments = {}
            for name, value in list(call.arguments.items())[1:]:
                if (kind := self._kind(call.path, name, value, {})) is not None:
                    arguments[name] = kind
            return Gather(call.path, self._segments(found), arguments)
        self._notes.append(f"{last}: tokens are made whole behind the last block; see whether a later module would do")
        return Gather(f"{last}.-1", self._segments(hidden))

    def _heads(self) -> str:
        number = next(
            (
                one.heads
                for path in self._planned
                for one in self._seen.lists[path][0].attention
                if self._is_exchanged(one, self._hidden[path])
            ),
            0,
        )
        for name in HEADS:
            if _at(self._model, name) == number:
                return name
        for path in self._planned:
            block = self._model.get_submodule(f"{path}.0")
            for inner, module in block.named_modules():
                for name, value in vars(module).items():
                    if "head" in name and type(value) is int and value == number:
                        return ".".join(filter(None, (path, "0", inner, name)))
        self._notes.append(f"heads: no attribute of the model is its number of heads, {number}; name one")
        return "num_heads"


def _hidden(call: ModuleCall) -> dict[str, str]:
    """The block's arguments that it returns with the same shape → the tokens that they hold."""
    returned = [value.dims for value in call.outputs if isinstance(value, Tensor) and value.token_dims()]
    found = {}
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.dims in returned:
            found[name] = value.dims[value.token_dims()[0]].tokens
            returned.remove(value.dims)
    return found


def _tokens_of(value: Any) -> str:
    """Of q or k."""
    dims = value.token_dims() if isinstance(value, Tensor) else []
    return value.dims[dims[0]].tokens if dims else ""


def _order(seen: Observed) -> tuple[str, ...]:
    """In which order text and image were put together."""
    for sizes in seen.joined:
        tokens = tuple(dim.tokens for dim in sizes)
        if sorted(tokens) == sorted((IMAGE, TEXT)):
            return tokens
    return (TEXT, IMAGE)


def _works_token_by_token(call: ModuleCall) -> str | None:
    """The tokens of its first argument, if the output [B, L, C] has as many; None for what is something else."""
    first, output = next(iter(call.arguments.values()), None), next(iter(call.outputs), None)
    if not isinstance(first, Tensor) or not isinstance(output, Tensor) or len(output.dims) != 3:
        return None
    if first.token_dims() != [1] or output.token_dims() != [1] or first.dims[1] != output.dims[1]:
        return None
    return first.dims[1].tokens if first.dims[1].tokens in (IMAGE, BOTH) else None


def _at(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model
