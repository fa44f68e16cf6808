"""What the ranks of a group hold in memory, as far as the host knows."""

from __future__ import annotations

from ...contract.reports import Standing


class Held:
    """Models by identity key, and bytes by rank.

    The ranks keep the models of the present prompt, and those of the one before if this one begins with one of them. So
    what a prompt leaves behind does not depend on how many there were, while a workflow with two models keeps both. A
    model that was preloaded for a prompt is kept for its later samplers.
    """

    def __init__(self):
        # Models of the last request, and what was preloaded since: on the devices of all ranks that hold any weights.
        self.latest: set[str] = set()
        self._weights: dict[int, int] = {}
        self._reserved: dict[int, int] = {}
        self._cached: dict[int, int] = {}
        self._known: set[str] = set()
        self._prompt: str | None = None
        self._present: set[str] = set()
        self._before: set[str] = set()
        self._ahead: set[str] = set()
        self._ahead_of: str | None = None

    def superseded(self, prompt: str | None, key: str) -> set[str]:
        """The models to forget before `prompt` uses the model `key`."""
        if prompt is None or prompt != self._prompt:
            self._prompt = prompt
            self._before = self._present if key in self._present else set()
            self._present = set()
        self._present.add(key)
        ahead = self._ahead if prompt == self._ahead_of else set()
        return self._known - self._present - self._before - ahead

    def preloading(self, prompt: str | None, key: str) -> None:
        """The ranks begin to read a model that a loader of `prompt` asked for: this prompt may use it later."""
        if prompt != self._ahead_of:
            self._ahead_of, self._ahead = prompt, set()
        self._ahead.add(key)
        self._known.add(key)

    def preloaded(self, key: str) -> None:
        """All ranks have read it."""
        self.latest = self.latest | {key}

    def loaded(self, keys: set[str]) -> None:
        """A request with these models was prepared."""
        self.latest = keys
        self._known |= keys
        self._present |= keys

    def forgotten(self, keys: set[str]) -> None:
        self._known -= keys
        self.latest -= keys

    def measured(self, standing: dict[int, Standing]) -> None:
        """`standing`: the answers of the ranks; those that gave none are taken to hold nothing."""
        self._weights = {rank: sum(size for _, size in answer.models) for rank, answer in standing.items()}
        memory = {rank: answer.memory for rank, answer in standing.items() if answer.memory}
        self._reserved = {rank: one.reserved for rank, one in memory.items()}
        self._cached = {rank: one.cached for rank, one in memory.items()}

    def freed(self, ranks: tuple[int, ...], caches_only: bool) -> None:
        for rank in ranks:
            cached = self._cached.pop(rank, 0)
            self._reserved[rank] = self._reserved.get(rank, 0) - cached if caches_only else 0
            if not caches_only:
                self._weights.pop(rank, None)

    def everywhere(self, key: str) -> bool:
        """Whether every rank holds the weights of a model, as far as is known."""
        return key in self.latest and bool(self._weights) and all(self._weights.values())

    def weights(self, rank: int) -> int:
        """Bytes of weights on the rank's device, when it was last asked."""
        return self._weights.get(rank, 0)

    def resident(self, rank: int) -> int:
        """All bytes of the rank on its device that it can give back: weights, what is kept for the next run, caches."""
        return max(self.weights(rank), self._reserved.get(rank, 0))

    def cached(self, rank: int) -> int:
        """Those of them that are in no use."""
        return self._cached.get(rank, 0)
