"""On PYTHONPATH of a test's ComfyUI: ends the rank processes named in a file before they do anything."""

import json
import os
import sys
from pathlib import Path

if len(sys.orig_argv) > 2 and sys.orig_argv[-2].endswith("/parallel_backend/rank/process/bootstrap.py"):
    failing = Path(os.environ["XDIT_TEST_FAILING_DEVICES"])
    index = json.loads(sys.orig_argv[-1])["index"]
    broken = json.loads(failing.read_text()) if failing.exists() else {}
    if str(index) in broken:
        print(broken[str(index)], file=sys.stderr, flush=True)
        os._exit(3)
