"""What a ComfyUI under test prints: every traceback on its console belongs to an error that somebody expects."""

from comfy_host.instance import ComfyInstance

from .comfy_client import FAILED, NodeError

TRACEBACK = "Traceback (most recent call last)"
NODE_ERROR = "!!! Exception during processing !!! "  # ComfyUI's, before the traceback of a node's error
TIPS = ("\nThis error means you ran out of memory on your GPU.", "\n\nTIPS:")  # what ComfyUI adds to some messages


class Console:
    """That of one instance, from its start on. Its clients know which prompts failed: ComfyUI prints the traceback of
    each, once. What else is to be printed with a traceback has to be announced by the text before it.
    """

    def __init__(self, comfy: ComfyInstance):
        self.comfy = comfy
        self._checked = 0
        self._failed = 0
        self._announced: list[str] = []

    def announce(self, before: str) -> None:
        """One traceback is expected after a line that holds `before`."""
        self._announced.append(before)

    def unexpected(self) -> str:
        """What was printed since the last call, from its first unexpected traceback on; "" when there is none. Names
        what was announced and did not come.
        """
        if not self.comfy.log.exists():
            return ""
        said = self.comfy.log_since(self._checked)
        self._checked = self.comfy.log.stat().st_size
        failed = FAILED.get(self.comfy.url, [])
        for error in failed[self._failed :]:
            said = _without_error(said, error)
        self._failed = len(failed)
        announced, self._announced = self._announced, []
        for before in announced:
            if before not in said:
                return f"announced, and not printed: {before}"
            said = _without_traceback(said, said.index(before))
        at = said.find(TRACEBACK)
        return said[max(0, said.rfind("\n", 0, max(0, at - 300))) :] if at >= 0 else ""


CONSOLES: list[Console] = []


def watch(comfy: ComfyInstance) -> Console:
    """The console of an instance; it is checked after each test from now on."""
    console = next((one for one in CONSOLES if one.comfy is comfy), None)
    if console is None:
        console = Console(comfy)
        CONSOLES.append(console)
    return console


def unexpected() -> str:
    """Of all consoles."""
    return "\n".join(filter(None, [console.unexpected() for console in CONSOLES]))


def _without_error(said: str, error: NodeError) -> str:
    """`said` without what ComfyUI printed of a node's error: a line, and its traceback with those of its causes."""
    message = error.message
    for tip in TIPS:
        message = message.partition(tip)[0]
    message = message.strip()
    begin = said.find(f"{NODE_ERROR}{message}")
    stack = said.find(error.traceback, begin)
    if begin < 0 or stack < 0:
        return said
    last = stack + len(error.traceback)
    return said[:begin] + said[said.index(message, last) + len(message) :]


def _without_traceback(said: str, at: int) -> str:
    """`said` without the first traceback after `at`, up to the line of its exception."""
    begin = said.find(TRACEBACK, at)
    if begin < 0:
        return said
    end = said.index("\n", begin) + 1
    while end < len(said) and said[end].isspace():
        end = said.index("\n", end) + 1
    return said[:begin] + said[end:]
