"""First code of a rank process: makes ComfyUI importable with the host's flags, then imports the pack.

Run as a script, `bootstrap.py '<json>'`, never through multiprocessing, whose child would run ComfyUI's main.py again.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
OOM_SCORE, MOST_OOM_SCORE = 500, 1000


def end_with_host(host_pid: int) -> None:
    """The kernel ends this process with ComfyUI, also while it imports, hangs or is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host_pid:  # it ended before this line
        os._exit(0)


def give_way_to_host() -> None:
    """When the machine's memory is full, the kernel ends this process, which can be started again, and not ComfyUI."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        score = min(int(file.read()) + OOM_SCORE, MOST_OOM_SCORE)
        file.seek(0)
        file.write(str(score))


def main() -> None:
    boot = json.loads(sys.argv[1])
    end_with_host(boot["host_pid"])
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        give_way_to_host()
    here = os.path.dirname(os.path.abspath(__file__))  # python puts it first, unless it is started with -P
    sys.path[:] = [boot["comfy_root"], *(entry for entry in sys.path if entry != here)]
    sys.argv = [os.path.join(boot["comfy_root"], "main.py"), *boot["comfy_args"]]

    import torch

    torch.set_num_threads(boot["threads"])
    if boot["kind"] == "cuda":
        torch.cuda.set_device(boot["index"])

    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    comfy.cli_args.args.cpu = boot["kind"] == "cpu"

    spec = importlib.util.spec_from_file_location(
        boot["pack_name"],
        os.path.join(boot["pack_root"], "__init__.py"),
        submodule_search_locations=[boot["pack_root"]],
    )
    assert spec is not None and spec.loader is not None  # as for every .py file
    sys.modules[boot["pack_name"]] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    importlib.import_module(boot["pack_name"] + ".parallel_backend.rank.process.main").run(boot)


if __name__ == "__main__":
    main()
