"""PipeFusion, configurations drawn by chance: each ends in time, as it must, and the ranks live on.

scripts/pipelines.py runs two hundred and writes docs/pipefusion.md.
"""

from support.random_pipelines.deviation import SAMPLERS, STEPS, WARMUPS
from support.random_pipelines.plan import by_ranks
from support.random_pipelines.report import COUNT, RECORD, TABLE, Record, place_of, render
from support.random_pipelines.run import Runner
from support.scheduling import FULL


def test_some_configurations(comfy, client):
    # Twenty on two and four ranks in a full run; starting three more takes long, and other tests do.
    configurations = [one for one in by_ranks(25) if one.ranks != 3]
    if not FULL:  # those on two ranks, and one that is refused
        refused = next(one for one in configurations if one.refusal)
        configurations = [*(one for one in configurations if one.ranks == 2), refused]
    outcomes = []
    Runner(comfy, client).run(configurations, outcomes.append)
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert len(outcomes) == len(configurations) >= (20 if FULL else 8)
    assert {outcome.end for outcome in outcomes} == {"exact", "approximate", "cancelled", "refused"}
    assert all(outcome.good_after for outcome in outcomes if outcome.end in ("cancelled", "refused"))
    assert any(outcome.repeated for outcome in outcomes)


def test_the_page_tells_what_the_record_holds():
    record = Record.read(RECORD)
    assert sorted(record.outcomes) == list(range(COUNT)) and record.bad == []
    assert TABLE.read_text() == render(record, COUNT)


def test_more_steps_and_more_warm_up_come_closer():
    found = {place: error for place, (error, _) in Record.read(RECORD).deviations.items()}
    for sampler in SAMPLERS:
        for warmup in WARMUPS:
            assert found[place_of(sampler, 32, warmup)] < found[place_of(sampler, 4, warmup)]
        for steps in STEPS[1:]:
            assert found[place_of(sampler, steps, "all but one")] < found[place_of(sampler, steps, "1")]
