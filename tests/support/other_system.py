"""`python other_system.py <ComfyUI> <system> <model file>`: the pack imported as on Windows or macOS, its nodes listed.

Prints one JSON object: the node ids, and what a loader, a sampler with a stock MODEL and the doctor say there. What
those systems lack is hidden once torch and ComfyUI are imported: they know how to do without it.
"""

import asyncio
import importlib
import importlib.abc
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

TREE, SYSTEM, MODEL = sys.argv[1:]
WINDOWS = SYSTEM == "win32"
MODULES = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"} if WINDOWS else set()
SIGNALS = ("SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2")
LINUX_OS = ("MFD_CLOEXEC", "memfd_create", "posix_fallocate", "pidfd_open", "sched_getaffinity", "sched_setaffinity")
POSIX_OS = ("WNOHANG", "fork", "geteuid", "getpgid", "getuid", "kill", "killpg", "setsid", "uname", "waitid", "wait4")
NOT_OURS = "blake3 cloudpickle comfy_api.latest nodes packaging.requirements psutil torch.utils.weak tqdm".split()
SOCKET = ("AF_UNIX", "recv_fds", "send_fds", "socketpair")


class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def hide() -> None:
    sys.meta_path.insert(0, Hidden())
    for name in MODULES:
        sys.modules.pop(name, None)
    missing = [(os, name) for name in (*LINUX_OS, *(POSIX_OS if WINDOWS else ()))]
    if WINDOWS:
        missing += [(signal, name) for name in SIGNALS] + [(socket, name) for name in SOCKET]
    for module, name in missing:
        if hasattr(module, name):
            delattr(module, name)
    sys.platform = SYSTEM

    def start_no_process(*_, **__):
        raise AssertionError("a process was started")

    subprocess.Popen.__init__ = start_no_process


def said_by(call) -> str:
    try:
        return str(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    sys.path[:1] = [TREE, str(Path(__file__).parents[1])]  # in place of this folder, which has a comfy.py
    sys.argv = ["main.py"]
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.cli_args import args

    args.cpu = True
    for name in NOT_OURS:
        importlib.import_module(name)
    import comfy.sd
    import folder_paths
    import server
    import torch

    from support.pack import register_pack

    folder_paths.add_model_folder_path("diffusion_models", str(Path(MODEL).parent))
    stock = comfy.sd.load_diffusion_model(MODEL)
    loop = asyncio.new_event_loop()
    server.PromptServer(loop)
    hide()
    register_pack()
    from xdit_comfyui import comfy_entrypoint

    extension = loop.run_until_complete(comfy_entrypoint())
    loop.run_until_complete(extension.on_load())
    listed = {node.define_schema().node_id: node for node in loop.run_until_complete(extension.get_node_list())}
    condition = [[torch.zeros(1, 16, 128), {"pooled_output": torch.zeros(1, 64), "guidance": 3.5}]]
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    sampled = (stock, 7, 4, 1.0, "euler", "simple", condition, condition, latent, 1.0)
    found = {
        "nodes": sorted(listed),
        "loader": said_by(lambda: listed["XDiTLoader"].execute(Path(MODEL).name, "default")),
        "sampler": said_by(lambda: listed["XDiTSampler"].execute(*sampled)),
        "doctor": said_by(lambda: listed["XDiTDoctor"].execute("cpu:2", True, "text").args[0]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
