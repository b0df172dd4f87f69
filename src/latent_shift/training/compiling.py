"""`torch.compile` for training, with the gradients of the plain form.

On CPUs, torch 2.13 compiles nearest upsampling in bfloat16 to a backward pass that is zero: whatever lies
below an upsampling layer learns nothing from it, without a word. So those layers stay plain there.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def ready_to_compile(module: AnyModule) -> AnyModule:
    """The module itself, its upsampling layers kept out of what is compiled where there is no GPU."""
    if not torch.cuda.is_available():
        for part in module.modules():
            if isinstance(part, Upsample2D):
                part.forward = torch.compiler.disable(part.forward)  # type: ignore[method-assign]
    return module
