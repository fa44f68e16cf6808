"""PipeFusion, twenty configurations drawn by chance: each ends in time, as it must, and the ranks live on.

scripts/pipelines.py runs two hundred and writes docs/pipefusion.md.
"""

from support.random_pipelines.plan import by_ranks
from support.random_pipelines.run import Runner


def test_twenty_configurations(comfy, client):
    configurations, outcomes = by_ranks(20), []
    Runner(comfy, client).run(configurations, outcomes.append)
    assert [outcome for outcome in outcomes if not outcome.good] == []
    assert len(outcomes) == len(configurations)
    assert {outcome.end for outcome in outcomes} == {"exact", "approximate", "cancelled", "refused"}
    assert all(outcome.good_after for outcome in outcomes if outcome.end in ("cancelled", "refused"))
    assert any(outcome.repeated for outcome in outcomes)
