"""A script as one process for each GPU."""

import subprocess
import sys
import tempfile


def one_rank_per_gpu(script: str, size: int) -> int:
    """Run `script` again `size` times with the same arguments, `--rank` and `--store`; the worst exit code."""
    with tempfile.TemporaryDirectory() as folder:
        shared = [sys.executable, script, *sys.argv[1:], "--store", f"{folder}/store"]
        ranks = [subprocess.Popen([*shared, "--rank", str(rank)]) for rank in range(size)]
        return max(abs(rank.wait()) for rank in ranks)
