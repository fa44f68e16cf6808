"""xfuser's USP (Ulysses × ring) over process groups that we made.

xfuser keeps its groups in module variables and makes new ones at each initialisation, so it is never initialised:
one `XfuserUSP` holds what xfuser wants to know about one factorisation, and points xfuser at it before each call.
xfuser is imported when the first adapter is made (6 s, 280 MB), never by importing this module.
"""

import importlib.util
from typing import Any

import torch
import torch.distributed as dist

from ..exchange.collectives import SequenceGroups, TokenSplit
from .lse_attention import attention_with_lse
from .ring import KernelWithLse

# The kernels of xfuser that return a log-sum-exp as a ring merges it. Its SDPA returns none and its SDPA_MATH returns
# the attention weights in that place, which gives wrong results without an error.
RING_KERNELS = ("CUDNN", "SDPA_FLASH", "FLASH", "FLASH_3")
_OURS = "xdit_comfyui kernel_with_lse"


def missing() -> str | None:
    """The package that an adapter imports and that is not installed, or None."""
    return next((name for name in ("xfuser", "yunchang") if importlib.util.find_spec(name) is None), None)


class XfuserUSP:
    """xfuser's USP for one factorisation. Make one for each `SequenceGroups` and keep it."""

    def __init__(self, groups: SequenceGroups, kernel: str | None = None):
        """`kernel`: one of RING_KERNELS, or None for the one that a call brings.

        Raises ValueError for another name.
        """
        if kernel is not None and kernel not in RING_KERNELS:
            raise ValueError(f"xfuser kernel {kernel} cannot run in a ring: use one of {', '.join(RING_KERNELS)}")
        from torch.distributed.tensor.experimental._attention import set_rotate_method
        from xfuser.core.distributed import parallel_state, runtime_state
        from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY, AttentionBackendType
        from xfuser.core.distributed.group_coordinator import SequenceParallelGroupCoordinator
        from xfuser.model_executor.layers import usp
        from yunchang.globals import PROCESS_GROUP

        if not runtime_state.runtime_state_is_initialized():
            runtime_state._RUNTIME = _runtime_state(runtime_state)
        set_rotate_method("alltoall")
        ATTENTION_FUNCTION_REGISTRY[_OURS] = _registered_attention
        usp.PROCESS_GROUP = PROCESS_GROUP  # None when xfuser was imported on a machine without a GPU

        self.groups = groups
        self.kernel = kernel
        self._backend = AttentionBackendType[kernel] if kernel else _OURS
        self._usp = usp.USP
        self._parallel_state = parallel_state
        self._process_group = PROCESS_GROUP
        self._coordinator = _coordinator(SequenceParallelGroupCoordinator, groups)

    def refusal(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        split_q: TokenSplit,
        split_kv: TokenSplit,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> str | None:
        """Why this attention cannot go through USP, or None. All ranks get the same answer for the same attention."""
        if len(set(split_q.local)) > 1 or len(set(split_kv.local)) > 1:
            return f"xfuser needs the same number of tokens on every rank, got {split_q.local} and {split_kv.local}"
        if 0 in split_q.local or 0 in split_kv.local:
            return "xfuser needs tokens on every rank"
        if mask is not None:
            return "xfuser's ring ignores masks"
        if k.shape[1] != q.shape[1] or v.shape[1] != q.shape[1]:
            return f"xfuser needs as many key/value heads ({k.shape[1]}) as query heads ({q.shape[1]})"
        if q.shape[1] % self.groups.ulysses_size:
            return f"xfuser needs heads ({q.shape[1]}) that ulysses {self.groups.ulysses_size} divides"
        if self.kernel is None:
            return None
        if scale is not None and scale != q.shape[-1] ** -0.5:
            return f"xfuser's {self.kernel} takes no scale"
        if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
            return f"xfuser's {self.kernel} needs fp16 or bf16 on CUDA"
        if q.shape[-1] % 8 or q.shape[-1] > (128 if self.kernel == "CUDNN" else 256):
            return f"xfuser's {self.kernel} cannot take heads of {q.shape[-1]}"
        return None

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float | None = None,
        kernel_with_lse: KernelWithLse = attention_with_lse,
    ) -> torch.Tensor:
        """[B, H, l, D] of this rank's tokens → [B, l, H*D], where `refusal` has nothing against it.

        `kernel_with_lse(q, k, v, mask, scale)`: see `ring_attention`; used where no kernel of xfuser's was named.
        """
        self._parallel_state._SP = self._coordinator
        self._process_group.ULYSSES_PG = self.groups.ulysses
        self._process_group.RING_PG = self.groups.ring
        options: dict[str, Any] = {"scale": scale} if scale else {}
        if self.kernel is None:
            options["kernel_with_lse"] = kernel_with_lse
        out = self._usp(q, k, v, combine_qkv_a2a=True, backend=self._backend, attention_kwargs=options or None)
        return out.transpose(1, 2).flatten(2)


def _runtime_state(module):
    """The runtime state that USP reads (no fp8 transfer, no head balancing), without xfuser making process groups.

    Its own ExternalRuntimeState is refused in a world of several ranks: the degrees in it must multiply to the world's
    size. Nothing on USP's path reads them.
    """
    from xfuser.config import xFuserArgs

    config, _ = xFuserArgs(data_parallel_degree=dist.get_world_size(), attention_backend="SDPA").create_config()
    state = module.ExternalRuntimeState.__new__(module.ExternalRuntimeState)
    module.RuntimeState.__init__(state, config)
    return state


def _coordinator(cls, groups: SequenceGroups):
    """xfuser's coordinator over existing groups; its own constructor makes new ones."""
    coordinator = cls.__new__(cls)
    coordinator.rank = groups.ranks[groups.rank]
    coordinator.ranks = list(groups.ranks)
    coordinator.world_size = groups.size
    coordinator.rank_in_group = groups.rank
    coordinator.device_group = groups.sequence
    coordinator.ulysses_group = groups.ulysses
    coordinator.ulysses_world_size = groups.ulysses_size
    coordinator.ulysses_rank = groups.ulysses_rank
    coordinator.ring_group = groups.ring
    coordinator.ring_world_size = groups.ring_size
    coordinator.ring_rank = groups.ring_rank
    return coordinator


def _registered_attention(query, key, value, dropout_p, is_causal, attention_kwargs=None):
    """A call's own kernel in the shape of xfuser's registry of attention functions."""
    return attention_kwargs["kernel_with_lse"](query, key, value, None, attention_kwargs.get("scale"))
