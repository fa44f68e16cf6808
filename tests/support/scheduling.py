"""In which order and company tests run."""

import itertools
import math
import os
import re

import pytest
from xdist.scheduler import LoadScopeScheduling

ALL = "XDIT_TEST_ALL"
FULL = os.environ.get(ALL) == "1"
KINDS = ("loader", "stock")  # of MODELs: xDiT Loader's, and a stock loader's given to xDiT Sampler
# Long cases of what shorter ones show, too.
full_run = pytest.mark.skipif(not FULL, reason=f"long, and others show it too; run by {ALL}=1")
DEGREES = ("ulysses", "ring", "cfg", "batch", "stages")
PAIRS = ("split", "factoring")  # of degrees
SHARED_RANKS = ("tests/models", "tests/sharding")


class SharedFixtures(LoadScopeScheduling):
    """Those of a file; and those of a folder whose files share ranks, forked from a process that takes long to make."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        return folder if folder in SHARED_RANKS else file


def by_ranks(items: list) -> None:
    """Order the tests of each file by the number of CPU ranks that their parameters name, two where they name none:
    another number means that a server's ranks end and others start, which takes longer than most tests, or that one
    more set of ranks takes memory.
    """
    files = {item.path: place for place, item in reversed(list(enumerate(items)))}
    items.sort(key=lambda item: (files[item.path], _ranks(item.callspec.params if hasattr(item, "callspec") else {})))


def _ranks(parameters: dict[str, object]) -> int:
    named = re.findall(r"cpu:(\d+)", repr(parameters))
    pairs = [parameters[name] for name in PAIRS if isinstance(parameters.get(name), tuple)]
    found = [*(parameters.get(name) for name in DEGREES), *itertools.chain.from_iterable(pairs)]
    degrees = [degree for degree in found if isinstance(degree, int)]
    if named:
        return int(named[0])
    ranks = parameters.get("ranks")
    return ranks if isinstance(ranks, int) else max(2, math.prod(degrees))


def one_kind_each(items: list) -> None:
    """Of cases that differ in the kind of MODEL only, run one kind: of neighbouring pairs the one, then the other.

    XDIT_TEST_ALL=1 runs both of all. Pairs: `loader` and `stock` as a parameter's value, all else alike.
    """
    if FULL:
        return
    pairs: dict[tuple, dict[str, object]] = {}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        kinds = [name for name, value in parameters.items() if value in KINDS]
        if len(kinds) == 1:
            alike = repr(sorted((name, repr(value)) for name, value in parameters.items() if name != kinds[0]))
            pairs.setdefault((item.path, item.function.__name__, alike), {})[parameters[kinds[0]]] = item
    whole = [pair for pair in pairs.values() if len(pair) == len(KINDS)]
    for number, pair in enumerate(whole):
        pair[KINDS[number % 2]].add_marker(pytest.mark.skip(reason=f"with the other kind of MODEL; both by {ALL}=1"))
