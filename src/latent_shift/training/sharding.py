"""Tensors that several processes may share out among them (FSDP2), read and written as whole ones.

A tensor that is not shared out is its own part and its own whole, so that one code serves every run.
`whole` is a matter of all processes: each of them must call it, for the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def own(parameter: Tensor) -> Tensor:
    """This process's part of a parameter, in the same storage: a change of it changes the parameter."""
    if not isinstance(parameter, DTensor):
        return parameter
    shared: Any = parameter.detach()  # a DTensor still
    part: Tensor = shared.to_local()
    return part.requires_grad_(parameter.requires_grad)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, detached."""
    detached: Any = tensor.detach()
    return detached.full_tensor() if isinstance(tensor, DTensor) else detached


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, shared out as `like` is. No process asks another: each must have the same."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def joined(part: Tensor, like: Tensor) -> Tensor:
    """This process's part of something that is shared out as `like` is, as a tensor with a whole."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def gather(named: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """The whole tensors by name, on the CPU; with `keep` false none of them, for processes that only help."""
    kept = {}
    for name, tensor in named:
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu().contiguous()
    return kept


def give_back(objective: nn.Module) -> None:
    """Let FSDP2 give back what it fetched for a forward pass that no backward pass follows.

    Else the next one would meet these parameters once more, whatever has been written into them since.
    """
    if isinstance(objective, FSDPModule):
        objective.reshard()


@torch.no_grad()
def fill(parameter: Tensor, tensor: Tensor) -> None:
    """Write a whole tensor into a parameter, in place."""
    parameter.copy_(share(tensor.to(parameter.dtype), parameter))
