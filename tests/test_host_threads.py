"""What goes wrong beside a prompt in ComfyUI's process: in the start of a group, between prompts, in other threads."""

import queue
import threading
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import pytest
import torch
from xdit_comfyui.parallel_backend.contract.commands import Settle
from xdit_comfyui.parallel_backend.contract.config import ConfigError
from xdit_comfyui.parallel_backend.contract.encoding import decode, encode
from xdit_comfyui.parallel_backend.contract.recipe import Recipe
from xdit_comfyui.parallel_backend.contract.reports import (
    IDLE,
    SAMPLING,
    Failed,
    Finished,
    Heartbeat,
    Memory,
    Prepared,
    Raised,
    Reading,
    Rejected,
    Settled,
    Standing,
)
from xdit_comfyui.parallel_backend.host.base import events
from xdit_comfyui.parallel_backend.host.base.devices import DeviceSet
from xdit_comfyui.parallel_backend.host.base.errors import GroupError, RequestRefused
from xdit_comfyui.parallel_backend.host.base.limits import Limits
from xdit_comfyui.parallel_backend.host.group import manager as manager_module
from xdit_comfyui.parallel_backend.host.group import process_group
from xdit_comfyui.parallel_backend.host.group.manager import GroupManager
from xdit_comfyui.parallel_backend.host.group.replies import Answers
from xdit_comfyui.parallel_backend.host.group.watchdog import Watch
from xdit_comfyui.parallel_backend.host.owner import Owner
from xdit_comfyui.parallel_backend.host.run.reading_display import LoadingBar
from xdit_comfyui.parallel_backend.loading import meta_loading
from xdit_comfyui.parallel_backend.transport.channel import ChannelClosed

TWO = DeviceSet("cpu", (0, 1))
RAISED = Raised("ValueError: no", "Traceback …", 1.0, False)


# Starts


@pytest.mark.parametrize("place", ["made", "waited for"])
@pytest.mark.parametrize("cause", [SystemExit("a node left"), KeyboardInterrupt("stop"), ValueError("odd")], ids=repr)
def test_a_start_that_raises_anything_ends_with_an_error_that_names_it(monkeypatch, place, cause):
    killed = []

    class Group:
        def __init__(self, devices, *others):
            if place == "made":
                raise cause

        def wait_until_ready(self, abandoned):
            raise cause

        def kill(self):
            killed.append(self)

    monkeypatch.setattr(manager_module, "ProcessGroup", Group)
    with pytest.raises(GroupError, match=f"cannot be started: {type(cause).__name__}: {cause}"):
        GroupManager(events.Events()).group(TWO, may_leave_out=False)
    assert len(killed) == (place == "waited for")  # no ranks live on


def test_a_limit_that_is_no_number_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("XDIT_START_TIMEOUT", "soon")
    manager = GroupManager(events.Events())
    with pytest.raises(ConfigError, match="XDIT_START_TIMEOUT"):
        manager.group(TWO, may_leave_out=False)
    assert manager.start is None


# What ranks are said to be doing


class Group:
    """A process group that answers with `messages`, as (rank, message)."""

    size = 2
    closed = False

    def __init__(self, messages):
        self.messages = list(messages)
        self.now = "sampling"

    def phase(self, what):
        self.now = what

    def receive(self, seconds):
        return self.messages.pop(0) if self.messages else None

    def send(self, message):
        if isinstance(message, Settle):
            self.messages += [(rank, Settled(1, rank)) for rank in range(self.size)]

    def name(self, rank):
        return f"rank {rank}"


@pytest.mark.parametrize(
    "end",
    [
        lambda rank: Rejected(1, rank, "load", RAISED),
        lambda rank: Prepared(1, rank, ()),
        lambda rank: Failed(1, rank, RAISED, {}),
        lambda rank: Finished(1, rank),
    ],
    ids=["refused", "prepared", "failed", "finished"],
)
def test_after_every_end_of_a_request_the_ranks_are_idle(end):
    group = Group((rank, end(rank)) for rank in range(2))
    answers = Answers(group, 1)
    answers.wait()
    try:
        answers.raise_failure()
    except RequestRefused:
        assert isinstance(end(0), Failed)
    assert group.now == "idle"


def test_an_answer_that_comes_too_late_answers_no_later_question(monkeypatch):
    """The watch asks where a rank stands, and the status asks for memory while that answer is on its way."""
    heard = queue.SimpleQueue()
    asked = []

    class Outbox:
        def send(self, payload):
            asked.append(decode(payload))
            if len(asked) == 2:
                heard.put(Standing(stack=("late",), question=asked[0].number))
                heard.put(Standing(memory=Memory(5, 10), question=asked[1].number))

        def close(self):
            heard.put(None)

    def receive():
        if (message := heard.get()) is None:
            raise ChannelClosed
        return encode(message), ()

    rank = SimpleNamespace(
        rank=0,
        process=SimpleNamespace(pid=-1, poll=lambda: 0, wait=lambda *_: 0),
        outbox=Outbox(),
        channel=SimpleNamespace(receive=receive, close=lambda: None),
        log=SimpleNamespace(close=lambda: None),
        stopped=lambda: False,
    )
    monkeypatch.setattr(process_group, "start_rank", lambda *_: rank)
    monkeypatch.setattr(process_group, "ANSWER_SECONDS", 0.1)
    group = process_group.ProcessGroup(DeviceSet("cpu", (0,)), Limits.from_environment(), None, events.Events())
    try:
        assert group.ask(stacks=True) == {}
        (standing,) = group.ask(stacks=False).values()
    finally:
        group.kill()
    assert standing.memory == Memory(5, 10)


def test_a_stall_is_told_as_it_was_seen_though_the_rank_goes_on_while_it_is_asked():
    causes = []

    class Stalled:
        size, devices = 1, DeviceSet("cpu", (0,))

        def ask(self, stacks, ranks=None):
            watch.heard(0, Heartbeat(IDLE, 2))
            return {0: Standing(stack=("here",))}

        def name(self, rank):
            return f"rank {rank}"

        def lose(self, cause):
            causes.append(str(cause()))

    watch = Watch(Stalled(), replace(Limits.from_environment(), stall=3.0))
    for _ in range(5):
        watch.heard(0, Heartbeat(SAMPLING, 1))
        watch._tick(1.0)
    assert causes and causes[0].startswith("rank 0 has made no progress for 3 s while sampling.")


# Events


def test_a_sampler_that_waits_for_what_is_preloaded_tells_nothing_of_a_run(caplog):
    """There may have been none, or it is over; only what a run itself reads belongs to it."""
    owner = Owner()
    status = owner.status
    reading = [Reading(1, 1, 4), Reading(1, 2, 4)]
    group = SimpleNamespace(size=2, reading=reading.__getitem__)
    answers = SimpleNamespace(group=group, ends={})
    bar = LoadingBar(answers, 1, steps=4)  # as preloads.wait_for makes it
    for one in (1, 2, 3):
        reading[0] = Reading(1, one, 4)
        bar.look()
    assert not caplog.records and status._run is None
    owner.events.emit(events.RunStarted("a prompt", TWO, "ulysses 2"))
    owner.events.emit(events.RunEnded("a prompt", None))
    reading[:] = [Reading(1, 3, 4)] * 2
    bar.look()
    assert not caplog.records and (status._run.phase, status._run.read) == ("done", None)


# Loaders of other threads


def test_a_loader_in_another_thread_is_comfyui_s_own_while_one_of_ours_runs(tmp_path, models_free_file):
    inside, go_on = threading.Event(), threading.Event()
    found = {}

    def ours(*_, disable_dynamic):
        found["ours"] = comfy.utils.load_torch_file(models_free_file)["large"].device.type
        found["device"] = comfy.model_management.unet_inital_load_device(1, torch.float32)
        inside.set()
        assert go_on.wait(30)
        return None

    def load():
        with pytest.raises(meta_loading.UnreadableWeights, match="no diffusion model"):
            meta_loading.load_model(Recipe(ours, (models_free_file,)), data=False)

    before = comfy.utils.load_torch_file
    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert inside.wait(30)
        theirs = comfy.utils.load_torch_file(models_free_file)
    finally:
        go_on.set()
        thread.join()
    assert found["ours"] == "meta" and theirs["large"].device.type == "cpu"
    assert comfy.utils.load_torch_file is before


def test_two_loads_at_once_leave_comfyui_as_it_was(models_free_file):
    before = comfy.utils.load_torch_file, comfy.model_management.unet_inital_load_device
    meeting = threading.Barrier(2, timeout=30)

    def load(data):
        def function(*_, disable_dynamic):
            meeting.wait()
            devices[data] = comfy.utils.load_torch_file(models_free_file)["large"].device.type
            meeting.wait()

        with pytest.raises(meta_loading.UnreadableWeights):
            meta_loading.load_model(Recipe(function, (models_free_file,)), data)

    devices = {}
    threads = [threading.Thread(target=load, args=(data,)) for data in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert devices == {False: "meta", True: "cpu"}
    assert (comfy.utils.load_torch_file, comfy.model_management.unet_inital_load_device) == before


@pytest.fixture
def models_free_file(tmp_path):
    """A file of weights that are no model's."""
    from safetensors.torch import save_file

    path = tmp_path / "some.safetensors"
    save_file({"large": torch.zeros(2**15)}, path)
    return str(path)
