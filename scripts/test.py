"""Sets up the host if needed, then runs ruff, mypy and the tests in it.

python3 scripts/test.py [arguments for pytest]

Without arguments types are checked and all tests run, in two processes at a time, as most also wait for ranks and
ComfyUIs. Then those of faults, which are about ranks that do not answer in time. The slowest are listed.
"""

import os
import subprocess
import sys
import time

from comfy_host import PACK_ROOT, SetupError, ensure_host

FAULTS = "tests/faults"
# Three gain a tenth of the time, and have taken all of 24 GiB.
TWO_AT_A_TIME = ("--numprocesses", "2", "--durations", "30")
ALL = {
    "pytest": (*TWO_AT_A_TIME, f"--ignore={FAULTS}"),
    "pytest of faults": (*TWO_AT_A_TIME, FAULTS),
}


def main() -> int:
    began = time.monotonic()
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    # The tools by their scripts: `python -m` would put the repository, and so its nodes/, on sys.path.
    tools = host.python.parent
    checks = {
        "ruff check": [tools / "ruff", "check", "--no-cache", "."],
        "ruff format": [tools / "ruff", "format", "--no-cache", "--check", "."],
    }
    if not sys.argv[1:]:
        checks["mypy"] = [sys.executable, PACK_ROOT / "scripts" / "check_types.py"]
    for name, arguments in ({"pytest": sys.argv[1:]} if sys.argv[1:] else ALL).items():
        checks[name] = [tools / "pytest", "-q", *arguments]
    environment = {**os.environ, "COMFYUI_PATH": str(host.tree), "PYTHONDONTWRITEBYTECODE": "1"}
    results = {}
    for name, command in checks.items():
        code = subprocess.run(command, cwd=PACK_ROOT, env=environment, stdin=subprocess.DEVNULL).returncode
        results[name] = "passed" if code == 0 else f"FAILED (code {code})"
    summary = ", ".join(f"{name} {result}" for name, result in results.items())
    print(f"{summary}; {time.monotonic() - began:.0f} s in all")
    return 0 if set(results.values()) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
