"""What a person sees while ranks read weights: the node's progress bar, the sidebar tab, Cancel."""

import pytest
from support.waiting import answered_status, wait_until

WHOLE, CUT = "while reading whole weights", "while reading weights"
STEPS = 4


def queue_stopped(faults, seed, rank=-1, place=WHOLE, call=60, **degrees):
    """A prompt whose ranks (`rank`: one of them) stop reading at a parameter, once they have come there."""
    faults.latent(**degrees)
    faults.client.post("/xdit/unload", {})
    fault = {"kind": "waits", "place": place, "rank": rank, "call": call}
    prompt, sampler, saved = faults.graph(seed=seed, fault=fault, **degrees)
    prompt_id = faults.client.queue(prompt)
    stopped = (0, 1) if rank == -1 else (rank,)
    wait_until(lambda: all((faults.counter / f"rank{one}").exists() for one in stopped))
    return prompt_id, sampler, saved


def go(faults):
    (faults.counter / "go").touch()


def loading_event(faults, prompt_id, wanted=lambda value, of: 0 < value < of):
    """The first progress event of reading that is `wanted`: bytes, and of how many."""
    shown = lambda event: event.type == "progress" and event.data["max"] > STEPS  # noqa: E731
    event = faults.client.wait_for(
        prompt_id, lambda event: shown(event) and wanted(event.data["value"], event.data["max"]), 30
    )
    return event.data["value"], event.data["max"]


def parts(shown):
    """What the bar showed before the sampler's steps; these have to begin at 0 and to come to their end."""
    loading = [(value, of) for value, of in shown if of != STEPS]
    steps = shown[len(loading) :]
    assert steps[0] == (0, STEPS) and steps[-1] == (STEPS, STEPS)
    assert steps == sorted(steps) and {of for _, of in steps} == {STEPS}  # ComfyUI leaves out fast ones
    return loading


@pytest.mark.parametrize("rank", [-1, 1])
def test_the_progress_bar_shows_what_the_slowest_rank_has_read_and_then_the_steps(faults, rank):
    prompt_id, sampler, saved = queue_stopped(faults, 71 + rank, rank)
    status = answered_status(faults.client)
    ((model,), pid) = status["ranks"][1]["models"], status["ranks"][1]["pid"]
    read, of = loading_event(faults, prompt_id, lambda value, of: value == model["bytes"])
    assert 0.1 < read / of < 0.9
    run = faults.client.get("/xdit/status")["run"]
    assert (run["phase"], run["step"]) == ("loading", 0) and run["read"] == pytest.approx(read / of)
    start = faults.log_size
    go(faults)
    result = faults.client.wait(prompt_id)
    assert result.progress(sampler) == result.progress() and pid in faults.pids()
    loading = parts(result.progress())
    assert {most for _, most in loading} == {of} and loading == sorted(loading) and (read, of) in loading
    assert faults.log_since(start).count("GiB of weights per rank in ") == 1
    assert faults.client.latent(result, saved).isfinite().all()


def test_of_divided_weights_too(faults):
    prompt_id, sampler, _ = queue_stopped(faults, 73, place=CUT, call=40, ulysses=2, weights="shard + offload")
    loading_event(faults, prompt_id)
    go(faults)
    assert parts(faults.client.wait(prompt_id).progress(sampler))


def test_weights_that_are_there_show_no_loading(faults):
    faults.latent()
    start = faults.log_size
    prompt, sampler, _ = faults.graph(seed=74)
    shown = faults.client.run(prompt).progress(sampler)
    assert shown[0] == (1, STEPS) and not parts([(0, STEPS), *shown])
    assert "GiB of weights" not in faults.log_since(start)


def test_cancel_while_the_bar_shows_loading(faults):
    prompt_id, _, _ = queue_stopped(faults, 75)
    pids = faults.pids()
    loading_event(faults, prompt_id)
    faults.client.interrupt(prompt_id)
    result = faults.client.wait(prompt_id, timeout=30)
    assert result.interrupted and result.error is None  # with the ranks still stopped
    go(faults)
    faults.assert_right(seed=76)
    assert faults.pids() == pids
