"""Configurations nobody should write, and workloads nobody expects: generated, refused by name or divided soundly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from xdit_comfyui.parallel_backend.contract.config import (
    ATTENTION_CHOICES,
    COMPILE,
    MAX_CPU_RANKS,
    STRATEGIES,
    UNSUPPORTED,
    WEIGHTS,
    ConfigError,
    Degrees,
    ParallelConfig,
    parse_devices,
)
from xdit_comfyui.parallel_backend.host.base.devices import resolve, visible_gpus
from xdit_comfyui.parallel_backend.host.strategy.choose import Workload, choose
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

AXES = ("ulysses", "ring", "cfg", "batch", "pipefusion")
REPEATABLE = settings(derandomize=True, deadline=None, database=None, max_examples=300)

whole = some.integers(min_value=1, max_value=8)
odd = some.one_of(
    some.integers(max_value=0),
    some.booleans(),
    some.none(),
    some.floats(),
    some.text(max_size=4),
    some.lists(some.integers(), max_size=2),
)
device_texts = some.one_of(
    some.text(max_size=12),
    some.text(alphabet="0123456789,:- cpuauto²٣GPU", max_size=12),
    some.lists(some.integers(0, 20), min_size=1, max_size=6).map(lambda numbers: ",".join(map(str, numbers))),
    some.integers().map(lambda count: f"cpu:{count}"),
    some.just("cpu:" + 5000 * "9"),
    some.just(5000 * "9"),
)


@REPEATABLE
@given(some.tuples(*[some.one_of(whole, odd)] * 5))
def test_degrees_of_any_type(values):
    sound = all(type(value) is int and value >= 1 for value in values)
    if sound:
        assert Degrees(*values).ranks >= Degrees(*values).sequence >= 1
        return
    with pytest.raises(ConfigError) as refused:
        Degrees(*values)
    axis, value = next(pair for pair in zip(AXES, values, strict=True) if type(pair[1]) is not int or pair[1] < 1)
    assert f"{axis} degree is {value!r}" in str(refused.value) and "from 1 on" in str(refused.value)


@REPEATABLE
@given(some.one_of(device_texts, some.none(), some.integers(), some.binary(max_size=3)))
def test_devices_of_any_text(text):
    try:
        kind, indices = parse_devices(text)
    except ConfigError as error:
        said = str(error)
        assert "devices" in said and len(said) < 400
        assert any(advice in said for advice in ("cpu:2", "name each once", "possible: 1 to")), said
        return
    assert kind in ("auto", "cpu", "gpu")
    assert len(set(indices)) == len(indices) and all(type(index) is int and index >= 0 for index in indices)
    assert kind != "cpu" or 1 <= len(indices) <= MAX_CPU_RANKS


@REPEATABLE
@given(some.lists(some.integers(0, 10**8), min_size=1, max_size=5, unique=True))
def test_gpus_that_are_not_there(numbers):
    there = visible_gpus()
    missing = [number for number in numbers if number >= there]
    text = ",".join(map(str, numbers))
    if not missing:
        assert resolve(text).indices == tuple(numbers)
        return
    with pytest.raises(ConfigError) as refused:
        resolve(text)
    assert f"no GPU {missing[0]}" in str(refused.value) and "ComfyUI sees" in str(refused.value)


@REPEATABLE
@given(
    strategy=some.one_of(some.sampled_from(STRATEGIES), odd),
    attention=some.one_of(some.sampled_from(ATTENTION_CHOICES), odd),
    unsupported=some.one_of(some.sampled_from(UNSUPPORTED), odd),
    compile=some.one_of(some.sampled_from(COMPILE), odd),
    weights=some.one_of(some.sampled_from(WEIGHTS), odd),
    patches=some.one_of(some.integers(-3, 64), odd),
    warmup_steps=some.one_of(some.integers(-3, 100), odd),
    degrees=some.one_of(some.builds(Degrees, whole, whole, whole, whole, whole), odd),
)
def test_configurations_of_any_values(
    strategy, attention, unsupported, compile, weights, patches, warmup_steps, degrees
):
    given_values = {
        "strategy": strategy,
        "attention": attention,
        "unsupported": unsupported,
        "compile": compile,
        "weights": weights,
    }
    possible = {
        "strategy": STRATEGIES,
        "attention": ATTENTION_CHOICES,
        "unsupported": UNSUPPORTED,
        "compile": COMPILE,
        "weights": WEIGHTS,
    }
    numbers = {"patches": patches, "warmup_steps": warmup_steps}
    bad = [name for name, value in given_values.items() if value not in possible[name]]
    bad += [name for name, value in numbers.items() if type(value) is not int or value < 0]
    if not isinstance(degrees, Degrees):
        bad.append("degrees")
    elif strategy == "manual" and degrees.pipefusion > 1 and degrees.ring > 1:
        bad.append("ring")
    if not bad:
        ParallelConfig("cpu:2", degrees=degrees, **given_values, **numbers)
        return
    with pytest.raises(ConfigError) as refused:
        ParallelConfig("cpu:2", degrees=degrees, **given_values, **numbers)
    assert any(name in str(refused.value) for name in bad)


@some.composite
def workloads(draw) -> Workload:
    planned = draw(some.booleans())
    return Workload(
        architecture="Flux" if planned else "UNetModel",
        plan=FLUX if planned else None,
        heads=draw(some.integers(1, 48)) if planned else None,
        conditions=draw(some.integers(0, 5)),
        latent_shape=tuple(draw(some.lists(some.integers(0, 300), max_size=6))),
        together=draw(some.one_of(some.none(), some.just("sag"))),
    )


@some.composite
def manual(draw) -> tuple[int, Degrees]:
    degrees = draw(some.builds(Degrees, whole, whole, whole, whole))
    fits = draw(some.integers(0, 3)) > 0
    return degrees.ranks if fits else draw(some.integers(1, 64)), degrees


def assert_sound(degrees: Degrees, ranks: int, work: Workload) -> None:
    assert 1 <= degrees.ranks <= ranks and ranks % degrees.ranks == 0
    assert degrees.cfg <= max(1, work.conditions)
    assert degrees.cfg == 1 or work.together is None
    assert degrees.batch <= max(1, work.latent_shape[0] if work.latent_shape else 1)
    assert degrees.sequence == 1 or work.plan is not None
    assert work.heads is None or degrees.ulysses <= work.heads
    assert degrees.pipefusion == 1


@settings(REPEATABLE, max_examples=500)
@given(ranks=some.integers(1, 64), work=workloads(), unsupported=some.sampled_from(UNSUPPORTED))
def test_auto_divides_any_workload(ranks, work, unsupported):
    try:
        choice = choose(ParallelConfig(unsupported=unsupported), ranks, work)
    except ConfigError as error:
        assert unsupported == "refuse" and f"{ranks} devices were asked for" in str(error)
        return
    assert_sound(choice.degrees, ranks, work)
    assert work.plan is None or choice.degrees.ranks == ranks
    assert unsupported != "refuse" or choice.degrees.ranks == ranks


@settings(REPEATABLE, max_examples=500)
@given(asked=manual(), work=workloads(), unsupported=some.sampled_from(UNSUPPORTED))
def test_manual_degrees_hold_or_are_refused_with_a_way_out(asked, work, unsupported):
    ranks, degrees = asked
    try:
        choice = choose(ParallelConfig(strategy="manual", degrees=degrees, unsupported=unsupported), ranks, work)
    except ConfigError as error:
        said = str(error)
        ways_out = (
            "must multiply to",
            "possible on",
            "set batch to",
            "set cfg to",
            "set ulysses and ring to 1",
            "refuse",
        )
        assert any(way in said for way in ways_out), said
        assert work.plan is not None or "or use ulysses" not in said
        return
    assert_sound(choice.degrees, ranks, work)
    assert choice.degrees == degrees or work.plan is None
