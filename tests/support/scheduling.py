"""In which order and company tests run."""

import re

from xdist.scheduler import LoadScopeScheduling

SHARED_RANKS = ("tests/models", "tests/sharding")


class SharedFixtures(LoadScopeScheduling):
    """Those of a file; and those of a folder whose files share ranks, forked from a process that takes long to make."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        return folder if folder in SHARED_RANKS else file


def by_ranks(items: list) -> None:
    """Order the tests of each file by the number of CPU ranks that their parameters name, two where they name none:
    another number means that a server's ranks end and others start, which takes longer than most tests.
    """
    files = {item.path: place for place, item in reversed(list(enumerate(items)))}

    def ranks(item) -> int:
        parameters = repr(item.callspec.params) if hasattr(item, "callspec") else ""
        named = re.findall(r"cpu:(\d+)", parameters)
        return int(named[0]) if named else 2

    items.sort(key=lambda item: (files[item.path], ranks(item)))
