"""The temporal shift: the one idea of Latent-Shift, and nothing else.

The frames of a clip ride through a 2-D denoiser as a batch. In every residual block a third of the channels
is read from the previous frame and a third from the next, so that the 2-D convolutions behind it mix time as
a 1-D temporal convolution of width 3 would, with no parameter and no arithmetic of its own. This file holds
pure functions on tensors: it knows no model (`unet.py` puts the shift into one) and needs only torch.

    shifted = temporal_shift(hidden, num_frames=16)   # the shift
    out = shifted_add(skip, branch, num_frames=16)    # skip + shifted branch, in one pass over memory

Shapes: B videos, F frames, C channels, H x W latent pixels; activations are frame-minor, (B*F, C, H, W).
Source: Latent-Shift (arXiv 2304.08477): zeros, both directions, fold 3. The other options are ours.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

CHOICES = {
    "place": ("output", "input"),
    "padding": ("zeros", "replicate", "circular"),
    "direction": ("both", "causal"),
    "single_frame": ("bypass", "shift"),
}


def check_count(name: str, value: int, at_least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < at_least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {at_least}")


@dataclass(frozen=True)
class ShiftOptions:
    """Options of the shift; the defaults are the paper's. Raises ValueError for an unknown value.

    place: "output", the last operation of a block's residual branch; "input", before its first convolution.
    padding: what a frame without a neighbour reads: "zeros"; "replicate", itself; "circular", the other end.
    direction: "both", a band from the past and one from the future; "causal", both bands from the past.
    fold: each of the two bands holds C // fold channels.
    single_frame: a clip of one frame passes unchanged ("bypass", ours) or shifts like any other ("shift",
    which under zeros blanks both bands).
    strides: frames from one neighbour to the next, which the blocks take in turns, in the order of
    `unet.modules()`: under (3, 1) every other block reads three frames away.
    """

    place: str = "output"
    padding: str = "zeros"
    direction: str = "both"
    fold: int = 3
    single_frame: str = "bypass"
    strides: tuple[int, ...] = (1,)

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}  # an unknown key of a file is an error

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
        check_count("fold", self.fold, at_least=2)
        if not isinstance(self.strides, tuple) or not self.strides:
            raise ValueError(f"strides={self.strides!r} must be a tuple of at least one number of frames")
        for stride in self.strides:
            check_count("stride", stride)


PAPER = ShiftOptions()
Call = tuple[int, ShiftOptions, int]  # a checked call: frames of a clip, options, stride


def temporal_shift(
    hidden: Tensor, num_frames: int, options: ShiftOptions = PAPER, *, stride: int = 1, **changes: Any
) -> Tensor:
    """Shift two bands of k = C // fold channels by s = stride frames, one from past, one from future.

        shifted[f, :k] = hidden[f - s, :k]
        shifted[f, k : C - k] = hidden[f, k : C - k]
        shifted[f, C - k :] = hidden[f + s, C - k :]

    hidden: (B*F, C, H, W), the frames of one clip adjacent, num_frames each. options: all but place and
    strides, which are for whole networks; changes: fields that differ, such as padding="circular". Returns
    the same shape, dtype and memory format; `hidden` itself for a single frame under "bypass".
    Raises ValueError for an unknown value of an option, a tensor that is not 4-D, or a batch of broken clips.
    """
    options = _changed(options, changes) if changes else options
    _check_call(hidden, num_frames, stride)
    if num_frames == 1 and options.single_frame == "bypass":
        return hidden
    call = (num_frames, options, stride)
    if torch.compiler.is_compiling():
        return _shift_by_cat(hidden, call)
    if torch.is_grad_enabled() and hidden.requires_grad:
        return _Shift.apply(hidden, call, False)
    return _shift(hidden, call, False)


def shifted_add(
    skip: Tensor,
    branch: Tensor,
    num_frames: int,
    options: ShiftOptions = PAPER,
    *,
    stride: int = 1,
    **changes: Any,
) -> Tensor:
    """`skip + temporal_shift(branch, num_frames, ...)`, bit for bit, with the traffic of `skip + branch`.

    skip, branch: (B*F, C, H, W) each. num_frames, options, stride, changes: as in `temporal_shift`. Returns
    the sum in the memory format of `skip`. The shift rides on the addition: each band of the sum is written
    once, from the branch at the neighbouring frame; the gradient of the branch is the opposite shift. Raises
    ValueError as `temporal_shift` does, and where the shapes differ.
    """
    options = _changed(options, changes) if changes else options
    _check_call(branch, num_frames, stride)
    if skip.shape != branch.shape:
        raise ValueError(f"skip {tuple(skip.shape)} and branch {tuple(branch.shape)} must have one shape")
    if num_frames == 1 and options.single_frame == "bypass":
        return skip + branch
    call = (num_frames, options, stride)
    if torch.compiler.is_compiling():
        return skip + _shift_by_cat(branch, call)
    if torch.is_grad_enabled() and (skip.requires_grad or branch.requires_grad):
        return _ShiftedAdd.apply(skip, branch, call)
    return _add_shifted(skip, branch, call)


def _changed(options: ShiftOptions, changes: dict[str, Any]) -> ShiftOptions:
    for name in changes.keys() & {"place", "strides"}:
        raise ValueError(f"{name}={changes[name]!r}: is for whole networks; of one tensor give the stride")
    return replace(options, **changes)


class BandCopy(NamedTuple):
    """A part of a clip that moves as one: its channels, the frames written, the frames read (None: zeros)."""

    channels: slice
    written: slice
    read: slice | None


def band_copies(channels: int, call: Call, opposite: bool = False) -> tuple[BandCopy, ...]:
    """The shift, or the opposite one: the middle that stays, the bulk of both bands, and last their edges."""
    num_frames, options, stride = call
    k = channels // options.fold  # the remainder of channels / fold stays with the middle
    reach = stride % num_frames if options.padding == "circular" else min(stride, num_frames)
    rest = num_frames - reach
    late, early = slice(reach, num_frames), slice(0, rest)  # all but the first, or last, `reach` frames
    start, end = slice(0, reach), slice(rest, num_frames)
    bulks, edges = [], []
    first, last = slice(0, k), slice(channels - k, channels)
    for band, from_future in ((first, opposite), (last, (options.direction == "both") != opposite)):
        bulks.append(BandCopy(band, early, late) if from_future else BandCopy(band, late, early))
        written, beyond = (end, start) if from_future else (start, end)
        read = {"zeros": None, "replicate": written, "circular": beyond}[options.padding]
        edges.append(BandCopy(band, written, read))
    return BandCopy(slice(k, channels - k), slice(None), slice(None)), *bulks, *edges


def _clips(tensor: Tensor, call: Call) -> Tensor:
    """A view (B, F, C, H, W) of a tensor (B*F, C, H, W)."""
    return tensor.unflatten(0, (-1, call[0]))


def _add_shifted(skip: Tensor, branch: Tensor, call: Call) -> Tensor:
    """skip + shift(branch), each element of the sum written once, into empty memory."""
    if (kernel := _kernel_for(skip, branch)) is not None:
        return kernel.shift_frames(branch, skip=skip, **_kernel_options(call))
    out = torch.empty_like(skip, dtype=torch.result_type(skip, branch))
    target, base, source = (_clips(tensor, call) for tensor in (out, skip, branch))
    for channels, written, read in band_copies(skip.shape[1], call):
        addend = 0.0 if read is None else source[:, read, channels]
        torch.add(base[:, written, channels], addend, out=target[:, written, channels])
    return out


def _shift(hidden: Tensor, call: Call, transposed: bool) -> Tensor:
    """The shift or, `transposed`, the opposite shift, which is its gradient; written into empty memory."""
    if (kernel := _kernel_for(hidden)) is not None:
        return kernel.shift_frames(hidden, transposed=transposed, **_kernel_options(call))
    out = torch.empty_like(hidden)
    target, source = _clips(out, call), _clips(hidden, call)
    for number, (channels, written, read) in enumerate(band_copies(hidden.shape[1], call, transposed)):
        if read is None or (transposed and number >= 3):  # what lies beyond an end has no gradient
            target[:, written, channels].zero_()
        else:
            target[:, written, channels].copy_(source[:, read, channels])
    if transposed:  # a padded edge gives back what it has read
        for channels, written, read in band_copies(hidden.shape[1], call)[3:]:
            if read is not None:
                target[:, read, channels].add_(source[:, written, channels])
    return out


class _ShiftedAdd(torch.autograd.Function):
    """`_add_shifted` with its gradients; that of the branch is the opposite shift."""

    @staticmethod
    def forward(ctx: Any, skip: Tensor, branch: Tensor, call: Call) -> Tensor:
        ctx.call, ctx.dtypes = call, (skip.dtype, branch.dtype)
        return _add_shifted(skip, branch, call)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (skip_dtype, branch_dtype) = grads, ctx.dtypes
        to_skip = grad.to(skip_dtype) if ctx.needs_input_grad[0] else None
        to_branch = _Shift.apply(grad, ctx.call, True).to(branch_dtype) if ctx.needs_input_grad[1] else None
        return to_skip, to_branch, None


class _Shift(torch.autograd.Function):
    """`_shift` with its gradient, the shift the other way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, call: Call, transposed: bool) -> Tensor:
        ctx.call, ctx.transposed = call, transposed
        return _shift(hidden, call, transposed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Shift.apply(grads[0], ctx.call, not ctx.transposed), None, None


def _kernel_for(*tensors: Tensor) -> Any:
    """The module of the one kernel that does all this on a GPU, or None where it does not take the tensors.

    Under `torch.compile` there is no need for it: the compiler makes one kernel of `_shift_by_cat`.
    """
    if not (tensors[0].is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    kernel = _load_kernel(tensors[0].device)
    return kernel if kernel is not None and kernel.serves(*tensors) else None


@cache
def _load_kernel(device: torch.device) -> Any:
    """`shift_kernel.py`, or None where Triton is not installed or, with a warning, cannot work."""
    if find_spec("triton") is None:
        return None
    try:
        kernel = import_module("latent_shift.shift_kernel")
        kernel.shift_frames(torch.zeros(1, 3, 1, 1, device=device), **_kernel_options((1, PAPER, 1)))
    except Exception as error:  # of many kinds: no compiler, another version, a GPU that it does not know
        warnings.warn(
            f"Triton does not work here, so the shift takes five kernels a block in place of one: {error}",
            stacklevel=2,
        )
        return None
    return kernel


def _kernel_options(call: Call) -> dict[str, Any]:
    num_frames, options, stride = call
    return {
        "num_frames": num_frames, "fold": options.fold, "padding": options.padding,
        "causal": options.direction == "causal", "stride": stride,
    }  # fmt: skip


def _shift_by_cat(hidden: Tensor, call: Call) -> Tensor:
    """The shift without a view being written to, for `torch.compile` to fuse with its neighbours."""
    source = _clips(hidden, call)
    middle, first, last, *edges = band_copies(hidden.shape[1], call)
    bands = []
    for (channels, _, bulk), (_, written, read) in zip((first, last), edges, strict=True):
        band = source[:, :, channels]
        edge = torch.zeros_like(band[:, written]) if read is None else band[:, read]
        parts = [edge, band[:, bulk]] if written.start == 0 else [band[:, bulk], edge]
        bands.append(torch.cat(parts, dim=1))
    return torch.cat([bands[0], source[:, :, middle.channels], bands[1]], dim=2).flatten(0, 1)


def _check_call(hidden: Tensor, num_frames: int, stride: int) -> None:
    check_count("stride", stride)
    check_count("num_frames", num_frames)
    if hidden.ndim != 4:
        raise ValueError(f"hidden {tuple(hidden.shape)} must be (videos * frames, channels, height, width)")
    if hidden.shape[0] % num_frames != 0:
        raise ValueError(
            f"a batch of {hidden.shape[0]} is no whole number of clips of {num_frames} frames:"
            f" pass num_frames=... or call enable_temporal_shift(unet, num_frames)"
        )
