"""Which tests stay together when pytest-xdist runs the tests in several processes (`-n`)."""

from xdist.scheduler import LoadScopeScheduling


class SharedFixtures(LoadScopeScheduling):
    """Those of a file; and those of a folder, whose files share ranks or a ComfyUI of their own."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        return file if folder == "tests" else folder
