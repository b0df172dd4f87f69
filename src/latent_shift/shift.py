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

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

PLACES = ("output", "input")
PADDINGS = ("zeros", "replicate", "circular")
DIRECTIONS = ("both", "causal")
SINGLE_FRAMES = ("bypass", "shift")


class _How(NamedTuple):
    """A checked call of the shift: the frames of a clip, and the options that say what a frame reads."""

    num_frames: int
    padding: str
    direction: str
    fold: int
    distance: int


# A part of a clip that moves as one: its channels, the frames it is written to, and those it is read from
# (None: it reads zeros).
Move = tuple[slice, slice, slice | None]


@dataclass(frozen=True)
class ShiftOptions:
    """How and where a denoiser shifts; the defaults are the paper's. Raises ValueError for an unknown value.

    place: "output", the last operation of a block's residual branch; "input", before its first convolution.
    padding: what a frame without a neighbour reads: "zeros"; "replicate", itself; "circular", the other end.
    direction: "both", a band from the past and one from the future; "causal", both bands from the past.
    fold: each of the two bands holds C // fold channels.
    distances: frames from one neighbour to the next, which the blocks take in turns, in the order of
    `unet.modules()`: under (3, 1) every other block reads three frames away.
    single_frame: a clip of one frame is left alone ("bypass", ours) or shifted like any other ("shift", which
    under zeros blanks both bands).
    """

    place: str = "output"
    padding: str = "zeros"
    direction: str = "both"
    fold: int = 3
    single_frame: str = "bypass"
    distances: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        _check_choice("place", self.place, PLACES)
        if not isinstance(self.distances, tuple) or not self.distances:
            raise ValueError(f"distances={self.distances!r} must be a tuple of at least one number of frames")
        for distance in self.distances:
            _check_shift(self.padding, self.direction, self.fold, self.single_frame, distance)


def temporal_shift(
    hidden: Tensor,
    num_frames: int,
    *,
    padding: str = "zeros",
    direction: str = "both",
    fold: int = 3,
    single_frame: str = "bypass",
    distance: int = 1,
) -> Tensor:
    """Shift two bands of k = C // fold channels by d = distance frames, one from past, one from future.

        shifted[f, :k] = hidden[f - d, :k]
        shifted[f, k : C - k] = hidden[f, k : C - k]
        shifted[f, C - k :] = hidden[f + d, C - k :]

    hidden: (B*F, C, H, W), the frames of one clip adjacent. Returns the same shape, dtype and memory format;
    `hidden` itself for a single frame under "bypass". Options as in `ShiftOptions`.
    Raises ValueError for an unknown option, a tensor that is not 4-D, or a batch of broken clips.
    """
    _check_shift(padding, direction, fold, single_frame, distance)
    _check_frames(hidden, num_frames)
    if num_frames == 1 and single_frame == "bypass":
        return hidden
    how = _How(num_frames, padding, direction, fold, distance)
    if torch.compiler.is_compiling():
        return _shift_by_cat(hidden, how)
    return _Shift.apply(hidden, how, False)


def shifted_add(
    skip: Tensor,
    branch: Tensor,
    num_frames: int,
    *,
    padding: str = "zeros",
    direction: str = "both",
    fold: int = 3,
    single_frame: str = "bypass",
    distance: int = 1,
) -> Tensor:
    """`skip + temporal_shift(branch, num_frames, ...)`, bit for bit, with the traffic of `skip + branch`.

    skip, branch: (B*F, C, H, W) each. Returns the sum in the memory format of `skip`. The shift rides on the
    addition: each band of the sum is written once, from the branch at the neighbouring frame; the gradient of
    the branch is the opposite shift. Raises ValueError as `temporal_shift` does, and where the shapes differ.
    """
    _check_shift(padding, direction, fold, single_frame, distance)
    _check_frames(branch, num_frames)
    if skip.shape != branch.shape:
        raise ValueError(f"skip {tuple(skip.shape)} and branch {tuple(branch.shape)} must have one shape")
    if num_frames == 1 and single_frame == "bypass":
        return skip + branch
    how = _How(num_frames, padding, direction, fold, distance)
    if torch.compiler.is_compiling():
        return skip + _shift_by_cat(branch, how)
    return _ShiftedAdd.apply(skip, branch, how)


def _moves(channels: int, how: _How, opposite: bool = False) -> tuple[Move, ...]:
    """The shift, or the opposite one: the middle that stays, the bulk of both bands, and last their edges."""
    k = channels // how.fold  # the remainder of channels / fold stays with the middle
    first, middle, last = slice(0, k), slice(k, channels - k), slice(channels - k, channels)
    first_bulk, first_edge = _reads(how, from_future=opposite)
    last_bulk, last_edge = _reads(how, from_future=(how.direction == "both") != opposite)
    stays = (middle, slice(None), slice(None))
    return stays, (first, *first_bulk), (last, *last_bulk), (first, *first_edge), (last, *last_edge)


def _reads(how: _How, *, from_future: bool) -> tuple[tuple[slice, slice], tuple[slice, slice | None]]:
    """The frames (written, read) of a band that reads `distance` frames away: of its bulk, and its edge."""
    num_frames, padding, distance = how.num_frames, how.padding, how.distance
    reach = distance % num_frames if padding == "circular" else min(distance, num_frames)
    rest = num_frames - reach
    late, early = slice(reach, num_frames), slice(0, rest)  # all but the first, or last, `reach` frames
    start, end = slice(0, reach), slice(rest, num_frames)
    written, beyond = (end, start) if from_future else (start, end)
    edge = {"zeros": None, "replicate": written, "circular": beyond}[padding]
    return (early, late) if from_future else (late, early), (written, edge)


def _clips(tensor: Tensor, num_frames: int) -> Tensor:
    """A view (B, F, C, H, W) of a tensor (B*F, C, H, W)."""
    return tensor.unflatten(0, (-1, num_frames))


class _ShiftedAdd(torch.autograd.Function):
    """skip + shift(branch), each element of the sum written once, into empty memory."""

    @staticmethod
    def forward(ctx: Any, skip: Tensor, branch: Tensor, how: _How) -> Tensor:
        ctx.how, ctx.dtypes = how, (skip.dtype, branch.dtype)
        out = torch.empty_like(skip, dtype=torch.result_type(skip, branch))
        target, base, source = (_clips(tensor, how.num_frames) for tensor in (out, skip, branch))
        for channels, written, read in _moves(skip.shape[1], how):
            addend = 0.0 if read is None else source[:, read, channels]
            torch.add(base[:, written, channels], addend, out=target[:, written, channels])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (skip_dtype, branch_dtype) = grads, ctx.dtypes
        to_skip = grad.to(skip_dtype) if ctx.needs_input_grad[0] else None
        to_branch = _Shift.apply(grad, ctx.how, True) if ctx.needs_input_grad[1] else None
        return to_skip, None if to_branch is None else to_branch.to(branch_dtype), None


class _Shift(torch.autograd.Function):
    """The shift or, `transposed`, the opposite shift, which is its gradient; written into empty memory."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, how: _How, transposed: bool) -> Tensor:
        ctx.how, ctx.transposed = how, transposed
        out = torch.empty_like(hidden)
        target, source = _clips(out, how.num_frames), _clips(hidden, how.num_frames)
        for number, (channels, written, read) in enumerate(_moves(hidden.shape[1], how, transposed)):
            if read is None or (transposed and number >= 3):  # what lies beyond an end has no gradient
                target[:, written, channels].zero_()
            else:
                target[:, written, channels].copy_(source[:, read, channels])
        if transposed:  # a padded edge gives back what it has read
            for channels, written, read in _moves(hidden.shape[1], how)[3:]:
                if read is not None:
                    target[:, read, channels].add_(source[:, written, channels])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Shift.apply(grads[0], ctx.how, not ctx.transposed), None, None


def _shift_by_cat(hidden: Tensor, how: _How) -> Tensor:
    """The shift without a view being written to, for `torch.compile` to fuse with what stands around it."""
    source = _clips(hidden, how.num_frames)
    (middle, *_), first, last, *edges = _moves(hidden.shape[1], how)
    bands = []
    for (channels, _, bulk), (_, written, read) in zip((first, last), edges, strict=True):
        band = source[:, :, channels]
        edge = torch.zeros_like(band[:, written]) if read is None else band[:, read]
        parts = [edge, band[:, bulk]] if written.start == 0 else [band[:, bulk], edge]
        bands.append(torch.cat(parts, dim=1))
    return torch.cat([bands[0], source[:, :, middle], bands[1]], dim=2).flatten(0, 1)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")


def _check_shift(padding: str, direction: str, fold: int, single_frame: str, distance: int) -> None:
    _check_choice("padding", padding, PADDINGS)
    _check_choice("direction", direction, DIRECTIONS)
    _check_choice("single_frame", single_frame, SINGLE_FRAMES)
    if isinstance(fold, bool) or not isinstance(fold, int) or fold < 2:
        raise ValueError(f"fold={fold!r} must be a whole number of at least 2: C // fold channels a band")
    if isinstance(distance, bool) or not isinstance(distance, int) or distance < 1:
        raise ValueError(f"distance={distance!r} must be a whole number of frames, at least 1")


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
