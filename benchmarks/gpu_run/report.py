"""What every run keeps and says: written after every case, so that a run cut short loses nothing."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Report:
    """`about`: command, versions, machine. Subclasses add lists of plain dicts, in the order they were taken."""

    out: Path
    about: dict
    failures: list[dict] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {line}", flush=True)

    def failure(self, what: object, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self.failures.append({"what": str(what), "error": text})
        self.say(f"FAILED {what}: {text}")
        self.write()

    def skip(self, what: object) -> None:
        self.skipped.append(str(what))
        self.say(f"skipped, no time left: {what}")

    def write(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        content = {name: value for name, value in asdict(self).items() if name not in ("out", "began")}
        partial = self.out.with_suffix(".partial")
        partial.write_text(json.dumps({**content, "took_seconds": time.monotonic() - self.began}, indent=1) + "\n")
        partial.replace(self.out)

    def ending(self) -> list[str]:
        """The last lines of a table."""
        failed = [f"FAILED {row['what']}: {row['error'].splitlines()[0]}" for row in self.failures]
        return failed + [f"skipped: {what}" for what in self.skipped]

    def machine(self) -> str:
        return f"{', '.join(self.about['gpus']) or 'no GPU'}; {self.about['versions']}"
