"""The tool as a command: what it takes and prints."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

import comfy.cli_args

comfy.cli_args.args.cpu = True  # before anything of ComfyUI's looks for a GPU

from ..sharding.plan.plan import class_path  # noqa: E402
from ..sharding.plan.plan_check import check_plan  # noqa: E402
from ..sharding.plans import PLANS  # noqa: E402
from .model_source import NoModel, source  # noqa: E402
from .proposal import NoProposal, propose  # noqa: E402
from .text import as_python, described  # noqa: E402
from .tiny_call import CannotCall, observed  # noqa: E402

FAILED, USAGE_ERROR = 1, 2


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)  # ComfyUI tells of missing weights
    try:
        given = dict(_input(text) for text in options.input)
        config = json.loads(options.config)
    except ValueError as error:
        print(f"{error}", file=sys.stderr)
        return USAGE_ERROR
    try:
        found = source(options.model, config)
        seen, inputs = observed(found, given, options.channels, options.frames)
    except (NoModel, CannotCall) as error:
        print(f"{error}", file=sys.stderr)
        return FAILED
    name = class_path(found.model)
    print(f"{name}, called with {inputs}\n\n{described(seen)}\n")
    if name in PLANS:
        print(f"# {type(found.model).__qualname__} has a plan already\n")
    try:
        proposal = propose(found.model, seen)
        check_plan(proposal.plan)
    except (NoProposal, TypeError, ValueError) as error:
        print(f"# no plan is proposed: {error}")
        return FAILED
    print(as_python(proposal))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="describe_model",
        description="Prints what a diffusion model's blocks are called with in tiny calls, and proposes a sharding"
        " plan. The model is built without weights and computes shapes only, so it may be of any size.",
    )
    parser.add_argument("model", help="a safetensors file, module:Class, or a node pack's file.py:Class")
    parser.add_argument("--config", default="{}", metavar="JSON", help="what the class is made with")
    parser.add_argument("--channels", type=int, help="of the latent")
    parser.add_argument("--frames", type=int, help="of the latent, for a model of videos")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model's forward: a shape as 1,T,48 (T: text tokens; H, W: size of the latent), or a"
        " number as n:3 or n:T. May be repeated",
    )
    return parser


def _input(text: str) -> tuple[str, Any]:
    """Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ValueError(f"--input {text}: NAME=VALUE, as context=1,T,48")
    parts = tuple(part if part in ("T", "H", "W") else int(part) for part in value.removeprefix("n:").split(","))
    return name, parts[0] if value.startswith("n:") else parts
