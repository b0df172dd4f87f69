"""The temporal shift: the one idea of Latent-Shift, and nothing else.

The frames of a clip ride through a 2-D denoiser as a batch. In every residual block a third of the channels
is read from the previous frame and a third from the next, so that the 2-D convolutions behind it mix time as
a 1-D temporal convolution of width 3 would, with no parameter and no arithmetic of its own. This file holds
pure functions on tensors: it knows no model (`unet.py` puts the shift into one) and needs torch alone.

    shifted = temporal_shift(hidden, num_frames=16)   # the shift
    out = shifted_add(skip, branch, num_frames=16)    # skip + shifted branch, at the cost of skip + branch

Shapes: B videos, F frames, C channels, H x W latent pixels; activations are frame-minor, (B*F, C, H, W).
Source: Latent-Shift (arXiv 2304.08477): zeros, both directions, fold 3. The other options are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PLACES = ("output", "input")
PADDINGS = ("zeros", "replicate", "circular")
DIRECTIONS = ("both", "causal")
SINGLE_FRAMES = ("bypass", "shift")

# A band of channels: its first, the one past its last, and which frame it reads: -1 past, 0 own, +1 future.
Band = tuple[int, int, int]


@dataclass(frozen=True)
class ShiftOptions:
    """How and where a denoiser shifts; the defaults are the paper's. Raises ValueError for an unknown value.

    place: "output", the last operation of a block's residual branch; "input", before its first convolution.
    padding: what a frame without a neighbour reads: "zeros"; "replicate", itself; "circular", the other end.
    direction: "both", a band from the past and one from the future; "causal", both bands from the past.
    fold: each of the two bands holds C // fold channels.
    single_frame: a clip of one frame is left alone ("bypass", ours) or shifted like any other ("shift", which
    under zeros blanks both bands).
    """

    place: str = "output"
    padding: str = "zeros"
    direction: str = "both"
    fold: int = 3
    single_frame: str = "bypass"

    def __post_init__(self) -> None:
        _check_choice("place", self.place, PLACES)
        _check_shift(self.padding, self.direction, self.fold, self.single_frame)


def temporal_shift(
    hidden: Tensor,
    num_frames: int,
    *,
    padding: str = "zeros",
    direction: str = "both",
    fold: int = 3,
    single_frame: str = "bypass",
) -> Tensor:
    """Shift two bands of k = C // fold channels by a frame, the first from past, the last from future.

        shifted[f, :k] = hidden[f - 1, :k]
        shifted[f, k : C - k] = hidden[f, k : C - k]
        shifted[f, C - k :] = hidden[f + 1, C - k :]

    hidden: (B*F, C, H, W), the frames of one clip adjacent. Returns the same shape, dtype and memory format;
    `hidden` itself for a single frame under "bypass". Options as in `ShiftOptions`.
    Raises ValueError for an unknown option, a tensor that is not 4-D, or a batch of broken clips.
    """
    _check_shift(padding, direction, fold, single_frame)
    _check_frames(hidden, num_frames)
    if num_frames == 1 and single_frame == "bypass":
        return hidden
    bands = _bands(hidden.shape[1], direction, fold)
    if torch.compiler.is_compiling():
        return _shift_by_cat(hidden, num_frames, bands, padding)
    return _Shift.apply(hidden, num_frames, bands, padding, False)


def shifted_add(
    skip: Tensor,
    branch: Tensor,
    num_frames: int,
    *,
    padding: str = "zeros",
    direction: str = "both",
    fold: int = 3,
    single_frame: str = "bypass",
) -> Tensor:
    """`skip + temporal_shift(branch, num_frames, ...)`, bit for bit, with the traffic of `skip + branch`.

    skip, branch: (B*F, C, H, W) each. Returns the sum in the memory format of `skip`. The shift rides on the
    addition: each band of the sum is written once, from the branch at the neighbouring frame; the gradient of
    the branch is the opposite shift. Raises ValueError as `temporal_shift` does, and where the shapes differ.
    """
    _check_shift(padding, direction, fold, single_frame)
    _check_frames(branch, num_frames)
    if skip.shape != branch.shape:
        raise ValueError(f"skip {tuple(skip.shape)} and branch {tuple(branch.shape)} must have one shape")
    if num_frames == 1 and single_frame == "bypass":
        return skip + branch
    bands = _bands(branch.shape[1], direction, fold)
    if torch.compiler.is_compiling():
        return skip + _shift_by_cat(branch, num_frames, bands, padding)
    return _ShiftedAdd.apply(skip, branch, num_frames, bands, padding)


def _bands(channels: int, direction: str, fold: int) -> tuple[Band, Band, Band]:
    """The three bands of a shift; the remainder of channels / fold stays with the middle one."""
    from_past, own, from_future = -1, 0, 1
    k = channels // fold
    last = from_past if direction == "causal" else from_future
    return (0, k, from_past), (k, channels - k, own), (channels - k, channels, last)


def _reads(offset: int, padding: str) -> tuple[tuple[slice, slice], tuple[slice, slice | None] | None]:
    """The frames a band (writes, reads): of the clip's bulk, and of its edge (None: reads zeros)."""
    first, last = slice(0, 1), slice(-1, None)
    if offset == 0:
        return (slice(None), slice(None)), None
    if offset < 0:
        edge = {"zeros": None, "replicate": first, "circular": last}[padding]
        return (slice(1, None), slice(0, -1)), (first, edge)
    edge = {"zeros": None, "replicate": last, "circular": first}[padding]
    return (slice(0, -1), slice(1, None)), (last, edge)


def _by_band(num_frames: int, band: Band, *tensors: Tensor) -> list[Tensor]:
    """Views (B, F, band, H, W) of tensors (B*F, C, H, W)."""
    return [tensor.unflatten(0, (-1, num_frames))[:, :, band[0] : band[1]] for tensor in tensors]


class _Shift(torch.autograd.Function):
    """The shift, or with `transposed` its adjoint, written once into empty memory: each other's gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, num_frames: int, bands: Sequence[Band], padding: str, transposed: bool
    ) -> Tensor:
        ctx.arguments = (num_frames, bands, padding, not transposed)
        out = torch.empty_like(hidden)
        for band in bands:
            target, source = _by_band(num_frames, band, out, hidden)
            (_write_transposed if transposed else _write_shifted)(target, source, band[2], padding)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Shift.apply(grads[0], *ctx.arguments), None, None, None, None


class _ShiftedAdd(torch.autograd.Function):
    """skip + shift(branch), each element of the sum written once."""

    @staticmethod
    def forward(
        ctx: Any, skip: Tensor, branch: Tensor, num_frames: int, bands: Sequence[Band], padding: str
    ) -> Tensor:
        ctx.arguments = (num_frames, bands, padding, True)
        ctx.dtypes = (skip.dtype, branch.dtype)
        out = torch.empty_like(skip, dtype=torch.result_type(skip, branch))
        for band in bands:
            target, base, source = _by_band(num_frames, band, out, skip, branch)
            bulk, edge = _reads(band[2], padding)
            for written, read in (bulk,) if edge is None else (bulk, edge):
                addend = 0.0 if read is None else source[:, read]
                torch.add(base[:, written], addend, out=target[:, written])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,), (skip_dtype, branch_dtype) = grads, ctx.dtypes
        to_skip = grad.to(skip_dtype) if ctx.needs_input_grad[0] else None
        to_branch = _Shift.apply(grad, *ctx.arguments).to(branch_dtype) if ctx.needs_input_grad[1] else None
        return to_skip, to_branch, None, None, None


def _write_shifted(target: Tensor, source: Tensor, offset: int, padding: str) -> None:
    """target (B, F, band, H, W) becomes the source `offset` frames away."""
    (written, read), edge = _reads(offset, padding)
    target[:, written].copy_(source[:, read])
    if edge is not None and edge[1] is None:
        target[:, edge[0]].zero_()
    elif edge is not None:
        target[:, edge[0]].copy_(source[:, edge[1]])


def _write_transposed(target: Tensor, source: Tensor, offset: int, padding: str) -> None:
    """The adjoint: the opposite shift with zeros; a padded edge returns its share to the frame it read."""
    _write_shifted(target, source, -offset, "zeros")
    _, edge = _reads(offset, padding)
    if edge is not None and edge[1] is not None:
        target[:, edge[1]].add_(source[:, edge[0]])


def _shift_by_cat(hidden: Tensor, num_frames: int, bands: Sequence[Band], padding: str) -> Tensor:
    """The shift without a view being written to, for `torch.compile` to fuse with what stands around it."""
    shifted = []
    for band in bands:
        (source,) = _by_band(num_frames, band, hidden)
        (_, read), edge = _reads(band[2], padding)
        frames = [source[:, read]]
        if edge is not None:
            frames.append(torch.zeros_like(source[:, :1]) if edge[1] is None else source[:, edge[1]])
        shifted.append(torch.cat(frames[::-1] if band[2] < 0 else frames, dim=1))
    return torch.cat(shifted, dim=2).flatten(0, 1)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")


def _check_shift(padding: str, direction: str, fold: int, single_frame: str) -> None:
    _check_choice("padding", padding, PADDINGS)
    _check_choice("direction", direction, DIRECTIONS)
    _check_choice("single_frame", single_frame, SINGLE_FRAMES)
    if isinstance(fold, bool) or not isinstance(fold, int) or fold < 2:
        raise ValueError(f"fold={fold!r} must be a whole number of at least 2: C // fold channels a band")


def _check_frames(hidden: Tensor, num_frames: int) -> None:
    if hidden.ndim != 4:
        raise ValueError(f"hidden {tuple(hidden.shape)} must be (videos * frames, channels, height, width)")
    check_num_frames(num_frames)
    if hidden.shape[0] % num_frames != 0:
        raise ValueError(
            f"a batch of {hidden.shape[0]} is no whole number of clips of {num_frames} frames:"
            f" pass num_frames=... or call enable_temporal_shift(unet, num_frames)"
        )


def check_num_frames(num_frames: int) -> None:
    """Raise ValueError unless `num_frames` is a whole number of at least 1."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, torch.SymInt)) or num_frames < 1:
        raise ValueError(f"num_frames={num_frames!r} must be a whole number of at least 1")
