"""The shifted addition as one Triton kernel, for GPUs: what `shift.py` writes band by band, in one launch.

Eager PyTorch makes five kernels of the addition with its bands, and launching them costs a U-Net's pass more
than their work. Here each element of the sum reads its skip and, by its channel, the branch at the frame
before, after or its own. The same kernel is the shift without an addition, and the opposite shift, its
gradient. Equal to the plain form bit for bit; `shift.py` asks `serves` and has the plain form for the rest.

Layout: a frame is a matrix of `rows` x `columns` elements in memory; the column tells the band. One row of
C*H*W elements where channels come first, H*W rows of C where they come last. Clip after clip, F frames each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # elements of a program
_COLUMNS = 64  # of a tile where channels come last: SD's and SDXL's channels are multiples of it
_COMPUTE = {
    torch.float16: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
_PADDINGS = {"zeros": 0, "replicate": 1, "circular": 2}


def serves(*tensors: Tensor) -> bool:
    """Whether the kernel takes these tensors: on a GPU, or anywhere under Triton's interpreter."""
    return all(
        (each.is_cuda or triton.knobs.runtime.interpret) and each.dtype in _COMPUTE for each in tensors
    )


def shift_frames(
    source: Tensor,
    num_frames: int,
    *,
    fold: int,
    padding: str,
    causal: bool,
    stride: int,
    transposed: bool = False,
    skip: Tensor | None = None,
) -> Tensor:
    """Shift `source` (B*F, C, H, W) or, `transposed`, shift it the opposite way; add it to `skip`, if any.

    num_frames: F, of which B*F is a multiple. fold, padding, stride: as in `ShiftOptions` and
    `temporal_shift`; causal: both bands from the past. Returns the memory format of `skip`, or of `source`,
    and the dtype that torch gives their sum.
    """
    like = source if skip is None else skip
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    source, like = source.contiguous(memory_format=layout), like.contiguous(memory_format=layout)
    dtype = source.dtype if skip is None else torch.result_type(skip, source)
    out = torch.empty_like(like, dtype=dtype)
    frames, channels, height, width = source.shape
    rows, columns, per_channel = (
        (height * width, channels, 1) if last else (1, channels * height * width, height * width)
    )
    band = channels // fold * per_channel
    tile_columns = _COLUMNS if last else TILE
    column_tiles = triton.cdiv(columns, tile_columns)
    tiles = column_tiles * triton.cdiv(rows, TILE // tile_columns)
    if out.numel():
        _shift_kernel[(frames * tiles,)](
            out, like, source, num_frames, rows, columns, band, columns - band, stride, tiles, column_tiles,
            PADDING=_PADDINGS[padding], CAUSAL=causal, TRANSPOSED=transposed, ADD=skip is not None,
            COMPUTE=_COMPUTE[dtype], ROWS=TILE // tile_columns, COLUMNS=tile_columns,
        )  # fmt: skip
    return out


@triton.jit
def _shift_kernel(  # type: ignore[no-untyped-def]
    out, skip, source, num_frames, rows, columns, first_end, last_start, stride, tiles, column_tiles,
    PADDING: tl.constexpr, CAUSAL: tl.constexpr, TRANSPOSED: tl.constexpr, ADD: tl.constexpr,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    index, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    frame = index % num_frames  # of its clip
    row = tile // column_tiles * ROWS + tl.arange(0, ROWS)[:, None]
    column = tile % column_tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < columns)
    in_first, in_last = column < first_end, column >= last_start
    size = tl.full((), rows, tl.int64) * columns
    place = index * size + row * columns + column  # in memory, of the element that is written

    # Frames from this one to the one that each band reads, and whether there is one
    past = stride if TRANSPOSED else -stride
    future = past if CAUSAL else -past
    has_past = (frame + past >= 0) & (frame + past < num_frames)
    has_future = (frame + future >= 0) & (frame + future < num_frames)
    to_past, to_future = past, future
    if PADDING == 2:
        to_past = (frame + past % num_frames + num_frames) % num_frames - frame
        to_future = (frame + future % num_frames + num_frames) % num_frames - frame
        has_past, has_future = frame >= 0, frame >= 0
    elif PADDING == 1 and not TRANSPOSED:
        to_past, to_future = tl.where(has_past, past, 0), tl.where(has_future, future, 0)
        has_past, has_future = frame >= 0, frame >= 0
    away = tl.where(in_first, to_past, tl.where(in_last, to_future, 0))
    known = tl.where(in_first, has_past, tl.where(in_last, has_future, frame >= 0))
    value = tl.load(source + place + away * size, mask=inside & known, other=0.0).to(COMPUTE)

    if PADDING == 1 and TRANSPOSED:  # a frame that has read itself gives back to itself
        itself = tl.where(
            in_first,
            (frame - past < 0) | (frame - past >= num_frames),
            in_last & ((frame - future < 0) | (frame - future >= num_frames)),
        )
        own = tl.load(source + place, mask=inside & itself, other=0.0).to(COMPUTE)
        value = tl.where(itself, value + own, value)
    if ADD:
        value = tl.load(skip + place, mask=inside, other=0.0).to(COMPUTE) + value
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
