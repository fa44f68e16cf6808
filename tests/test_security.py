"""What SECURITY.md says: what listens, which sockets have names, and where something is unpickled."""

import ast

import psutil
from comfy_host import PACK_ROOT
from support.prompts import Graph
from support.ranks import is_loopback, listeners, rank_pids

# The channel's messages, the request in them, and a module in that; all from the private socket pair.
UNPICKLED_IN = {
    ("parallel_backend/contract/encoding.py", "decode"),
    ("parallel_backend/rank/run/request_reader.py", "loads"),
    ("parallel_backend/transport/returned.py", "apply_changes"),
    ("parallel_backend/rank/weights/model_store.py", "module"),
}
UNPICKLERS = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("torch", "load"),
    ("cloudpickle", "loads"),
}
OBJECT_COLLECTIVES = {
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "recv_object_list",
    "scatter_object_list",
    "send_object_list",
}


def sample(client, models):
    graph = Graph()
    model = graph.add(
        "XDiTLoader",
        unet_name=models.flux(),
        weight_dtype="default",
        parallel_config=graph.parallel_config("cpu:2"),
    )
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.save(graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=91, steps=1))
    client.run(graph.prompt)


def test_comfyui_listens_on_its_own_port_and_the_ranks_on_loopback(client, comfy, models):
    sample(client, models)
    ranks = rank_pids(comfy)
    assert len(ranks) == 2
    found = {pid: listeners(pid) for pid in comfy.processes()}
    assert [port for _, port in found[comfy.pid]] == [comfy.port]
    assert set(found) >= ranks
    for pid in ranks:
        assert found[pid] and all(is_loopback(address) for address, _ in found[pid]), found[pid]
    assert {pid for pid, sockets in found.items() if sockets} == {comfy.pid, *ranks}


def test_the_pipes_to_the_ranks_have_no_name(client, comfy, models):
    sample(client, models)
    for pid in rank_pids(comfy):
        sockets = psutil.Process(pid).net_connections("unix")
        assert sockets and [one.laddr for one in sockets if one.laddr] == []


def test_only_what_came_over_the_private_pipes_is_unpickled():
    found = set()
    for folder in ("nodes", "parallel_backend"):
        for path in (PACK_ROOT / folder).rglob("*.py"):
            for function, call in calls(ast.parse(path.read_text())):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                assert name not in OBJECT_COLLECTIVES, f"{path}: {name} unpickles what comes from other ranks"
                assert not (isinstance(call.func, ast.Name) and name in ("eval", "exec")), f"{path}: {name}"
                owner = getattr(getattr(call.func, "value", None), "id", None)
                if (owner, name) in UNPICKLERS or name.endswith("Unpickler"):
                    found.add((path.relative_to(PACK_ROOT).as_posix(), function))
    assert found == UNPICKLED_IN


def calls(tree):
    """(name of the innermost function around it, call) of every call."""

    def visit(node, function):
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            yield function, node
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(tree, None)
