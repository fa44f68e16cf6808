"""Who samples: stock ComfyUI, or this pack on one or more devices."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """Stock ComfyUI (`devices` None), or the pack with `ranks` ranks on `devices`.

    `strategy`: "auto", or the one degree (such as "ulysses") that takes all ranks. `compile`: the pack's setting.
    """

    name: str
    devices: str | None = None
    ranks: int = 1
    strategy: str = "auto"
    compile: str = "off"

    @property
    def settings(self) -> dict[str, int | str]:
        """For Graph.parallel_config; without a degree the choice is left to the pack."""
        degrees = {} if self.strategy == "auto" else {self.strategy: self.ranks}
        return {"compile": self.compile, **degrees}


def engines(gpus: int, strategies: tuple[str, ...] = ("auto",), compile: str = "off") -> list[Engine]:
    """Stock, then the pack on 1, 2, 4 … `gpus` GPUs, on several once for each strategy; without a GPU on CPU ranks."""
    compiled = ", compiled" if compile == "on" else ""
    found = [Engine("stock")]
    sizes = [size for size in (1, 2, 4, 8) if size <= (gpus or 2)]
    for size in sizes:
        devices = ",".join(map(str, range(size))) if gpus else f"cpu:{size}"
        noun = ("GPU" if gpus else "CPU rank") + ("s" if size > 1 else "")
        for strategy in strategies if size > 1 else ("auto",):
            suffix = "" if strategy == "auto" or len(strategies) == 1 else f" {strategy}"
            found.append(Engine(f"xDiT {size} {noun}{suffix}{compiled}", devices, size, strategy, compile))
    return found
