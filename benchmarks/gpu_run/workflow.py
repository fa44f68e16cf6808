"""A prompt to be measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workflow:
    """A prompt in API format, the ids of its sampler node and of its SaveLatent node; `steps` of the sampler."""

    prompt: dict
    sampler: str
    saved: str
    steps: int
    preview: str = "none"
