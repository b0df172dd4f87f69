"""An optimizer's state as whole tensors by name, and back, whoever holds which part of it.

"3.exp_avg" is the entry `exp_avg` of the third trained parameter, counted from 0. One process holds all of
it, FSDP2 a part of each tensor, DeepSpeed (ZeRO 1 and 2) a part of all tensors laid end to end.
Reading and writing are matters of all processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latent_shift.training.sharding import gather, share

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, the one optimizer that is shared out


def read_optimizer(
    optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], *, keep: bool = True
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The per-parameter entries: tensors on the CPU, and plain numbers. keep: as in `gather`."""
    if _is_deepspeeds(trained):
        return gather(_deepspeeds_entries(optimizer, trained), keep=keep), {}
    state = optimizer.state_dict()["state"]
    entries = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
    tensors = ((key, value) for key, value in entries.items() if isinstance(value, Tensor))
    return gather(tensors, keep=keep), {
        key: value for key, value in entries.items() if not isinstance(value, Tensor)
    }


def write_optimizer(
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, float],
) -> None:
    """Give the optimizer entries that `read_optimizer` gave."""
    if _is_deepspeeds(trained):
        _write_deepspeed(optimizer, trained, tensors)
        return
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *numbers.items()):
        index, name = key.split(".", 1)
        like = trained[int(index)]
        if isinstance(value, Tensor) and value.shape == like.shape:
            value = share(value, like)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _is_deepspeeds(trained: list[nn.Parameter]) -> bool:
    return hasattr(trained[0], "_hp_mapping")


def _deepspeeds_entries(
    optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]
) -> Iterator[tuple[str, Tensor]]:
    from deepspeed.utils import safe_get_full_optimizer_state

    (steps,) = {float(entries["step"]) for entries in optimizer.state.values()}
    for i, parameter in enumerate(trained):
        yield f"{i}.step", torch.tensor(steps)
        for name in _MOMENTS:
            yield f"{i}.{name}", safe_get_full_optimizer_state(parameter, name).view(parameter.shape)


def _write_deepspeed(
    optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    from deepspeed.utils import (
        lazy_init_hp_params_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
    )

    ((flat,),) = (group["params"] for group in optimizer.param_groups)  # this process's part, end to end
    moments = {name: torch.zeros_like(flat) for name in _MOMENTS}  # else made by the first step
    optimizer.state[flat] = {"step": torch.tensor(float(tensors["0.step"]), device=flat.device), **moments}
    lazy_init_hp_params_optimizer_state(trained, flat, optimizer.state)
    for i, parameter in enumerate(trained):
        safe_set_full_fp32_param(parameter, parameter.detach().clone())  # its own copy, from which it steps
        for name in _MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[f"{i}.{name}"].to(parameter.device), name)
