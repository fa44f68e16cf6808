"""What a rank does to make and give back the process groups of degrees."""

from __future__ import annotations

import torch
import torch.distributed as dist


class MeshSide:
    """Answers ("use", degrees …) and ("release",) with (process groups beside the world's, releases begun so far)."""

    @staticmethod
    def prepare() -> None:
        from xdit_comfyui.parallel_backend.rank.run import mesh  # noqa: F401

    def __init__(self):
        from xdit_comfyui.parallel_backend.rank.run.mesh import Meshes
        from xdit_comfyui.parallel_backend.rank.weights.weight_groups import WeightGroups

        self._releases = 0
        self._meshes = Meshes(torch.device("cpu"), self._begin_release)
        self._weight_groups = WeightGroups(torch.device("cpu"))

    def _begin_release(self) -> None:
        self._releases += 1

    def answer(self, verb: str, *arguments):
        if verb == "use":
            self._use(*arguments)
        else:
            self._meshes.release()
            self._weight_groups.release()
        return len(dist.distributed_c10d._world.pg_map) - 1, self._releases

    def _use(self, degrees) -> None:
        mesh = self._meshes.get(degrees)
        groups = [
            mesh.active,
            mesh.sp and mesh.sp.sequence,
            self._weight_groups.get(degrees),
            *(peers and peers.group for peers in (mesh.cfg, mesh.batch, mesh.pipe and mesh.pipe.stages)),
        ]
        for group in filter(None, groups):
            value = torch.ones(1)
            dist.all_reduce(value, group=group)
            assert value.item() == dist.get_world_size(group)
