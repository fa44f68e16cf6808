"""The check of ComfyUI's console: a traceback that belongs to no failed prompt, and that nobody announced, is told."""

from types import SimpleNamespace

import pytest
from support.comfy_client import FAILED, NodeError
from support.console import Console

STACK = '  File "execution.py", line 1, in execute\n    run()\n  File "node.py", line 2, in run\n    fail()\n'
MESSAGE = "the rank said:\nTraceback (most recent call last):\n  in the rank\nValueError: no"


def printed(message: str, stack: str = STACK) -> str:
    """As ComfyUI prints a node's error, with its cause."""
    cause = "Traceback (most recent call last):\n  cause\nKeyError: 1\n\nThe above exception was the direct cause:\n\n"
    return (
        f"!!! Exception during processing !!! {message}\n{cause}Traceback (most recent call last):\n{stack}"
        f"node.Wrong: {message}\n\nPrompt executed in 0.1 seconds\n"
    )


STRAY = 'Exception in thread x:\nTraceback (most recent call last):\n  File "a", line 1\nAttributeError: read\nnext\n'


@pytest.fixture
def console(tmp_path):
    log = tmp_path / "comfyui.log"
    log.touch()
    instance = SimpleNamespace(log=log, url=f"http://{tmp_path}", log_since=lambda start: log.read_text()[start:])
    console = Console(instance)
    console.say = lambda text: log.write_text(log.read_text() + text)
    console.failed = lambda message: FAILED.setdefault(instance.url, []).append(
        NodeError("1", "Node", "node.Wrong", message, STACK)
    )
    return console


def test_errors_of_prompts_are_expected_each_once(console):
    console.say("starting\n" + printed(MESSAGE) + printed("other"))
    console.failed(MESSAGE)
    console.failed("other")
    assert console.unexpected() == ""
    console.say(printed(MESSAGE))
    assert "!!! Exception during processing !!! the rank said" in console.unexpected()
    assert console.unexpected() == ""  # told once


def test_out_of_memory_s_tips_are_no_part_of_what_is_printed(console):
    console.say(printed("no memory"))
    console.failed("no memory\nThis error means you ran out of memory on your GPU.\n\nTIPS: a smaller batch")
    assert console.unexpected() == ""


def test_a_traceback_of_nobody_is_told(console):
    console.say(printed(MESSAGE) + STRAY)
    console.failed(MESSAGE)
    assert "AttributeError: read" in console.unexpected()


def test_an_announced_traceback_is_expected_once_and_has_to_come(console):
    console.announce("thread x")
    console.say(STRAY)
    assert console.unexpected() == ""
    console.announce("thread x")
    console.say(STRAY + STRAY)
    assert "AttributeError: read" in console.unexpected()
    console.announce("thread y")
    assert console.unexpected() == "announced, and not printed: thread y"
