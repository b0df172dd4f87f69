"""One clip on several processes: each has a part of its frames and all layers, and exchanges edges at shifts.

    prediction = predict_shared(unet, sample, timestep, text, num_frames=64)  # in each process

The shift is local in time: at each shift a process needs one stride's frames of its neighbours' features, one
band of their channels from each side, and nothing else. The result is that of one process except for
rounding. Works on every backend that sends tensors (gloo, NCCL).

Shapes: B clips, F frames each, clip after clip; C channels, h x w latent pixels, L tokens of width D.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from latent_shift.shift import ShiftOptions, check_count
from latent_shift.unet import (
    PartOfClip,
    mixes_frames,
    override_num_frames,
    override_part_of_clip,
    shift_options,
)


def own_frames(num_frames: int, rank: int, processes: int) -> range:
    """The frames of a process: parts that follow each other, and differ by at most one frame in length."""
    return range(num_frames * rank // processes, num_frames * (rank + 1) // processes)


def predict_shared(
    unet: nn.Module,
    sample: Tensor,
    timestep: Tensor | float,
    text: Tensor,
    *,
    num_frames: int,
    group: dist.ProcessGroup | None = None,
    by_frame: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """The prediction (B*F, C, h, w) of a `UNet2DConditionModel` for whole clips, in every process.

    Called by all processes of the group with the same arguments; each computes its frames, without
    gradients. Equal to a call of the U-Net with all frames, except for rounding.

    Args:
        unet: with or without the shift.
        sample: (B*F, C, h, w), as all that follows on this process's device.
        timestep: one for all.
        text: (B*F, L, D).
        num_frames: F.
        group: processes; None: all.
        by_frame: keywords of the U-Net's call with tensors, or mappings or lists of them, of one row a frame.
        kwargs: its other keywords.

    Raises:
        ValueError: for a batch of broken clips, fewer frames a process than a stride, and a U-Net in which
            frames meet beside the shift.
    """
    check_count("num_frames", num_frames)
    if (mixing := mixes_frames(getattr(unet, "_orig_mod", unet))) is not None:
        raise ValueError(f"frames meet in {mixing}: such a clip cannot be shared between processes")
    if len(sample) % num_frames:
        raise ValueError(f"a batch of {len(sample)} is no whole number of clips of {num_frames} frames")
    rank, processes = dist.get_rank(group), dist.get_world_size(group)
    frames = own_frames(num_frames, rank, processes)
    options, clips = shift_options(unet), len(sample) // num_frames
    reach = 1 if options is None else max(options.strides)
    if num_frames // processes < reach:
        raise ValueError(
            f"{num_frames} frames on {processes} processes: each needs {reach} or more; use fewer processes"
        )

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: own(each) for name, each in value.items()}
        if isinstance(value, list):
            return [own(each) for each in value]
        rows = value.unflatten(0, (clips, num_frames))[:, frames.start : frames.stop]
        return rows.flatten(0, 1)

    def run() -> Tensor:
        given = {**own(by_frame or {}), **kwargs}
        return unet(own(sample), timestep, encoder_hidden_states=own(text), return_dict=False, **given)[0]

    with torch.no_grad():
        if options is None:
            mine = run()
        else:
            part = _SharedClip(clips, rank, processes, group)
            with override_num_frames(unet, num_frames), override_part_of_clip(unet, part):
                mine = run()
        mine = mine.unflatten(0, (clips, -1)).transpose(0, 1).contiguous()  # frames first
        parts = [own_frames(num_frames, each, processes) for each in range(processes)]
        padded = mine.new_zeros(max(map(len, parts)), *mine.shape[1:])
        padded[: len(mine)] = mine
        gathered = [torch.empty_like(padded) for _ in parts]
        dist.all_gather(gathered, padded, group=group)
        whole = torch.cat([one[: len(part)] for one, part in zip(gathered, parts, strict=True)])
    return whole.transpose(0, 1).flatten(0, 1)


class _SharedClip(PartOfClip):
    """Neighbouring frames at the edges come from the processes before and after, of the bands that shift."""

    def __init__(self, clips: int, rank: int, processes: int, group: dist.ProcessGroup | None) -> None:
        self.clips, self.rank, self.processes, self.group = clips, rank, processes, group

    def shift(
        self, skip: Tensor, hidden: Tensor, options: ShiftOptions, stride: int
    ) -> tuple[Tensor, Tensor]:
        """The skip, and `hidden` (B*rows, C, H, W) shifted over all frames of the clips."""
        features = hidden.unflatten(0, (self.clips, -1))
        k = features.shape[2] // options.fold
        first, last = features[:, :, :k], features[:, :, features.shape[2] - k :]
        if options.direction == "both":
            bands_from_past, bands_from_future = first, last
        else:
            bands_from_past, bands_from_future = torch.cat([first, last], dim=2), None
        periodic = options.padding == "circular"
        from_past = self._receive(bands_from_past, -stride, periodic)
        from_future = None
        if bands_from_future is not None:
            from_future = self._receive(bands_from_future, stride, periodic)

        def moved(band: Tensor, edge: Tensor | None, past: bool) -> Tensor:
            at_edge = band[:, :stride] if past else band[:, -stride:]
            if edge is None:
                edge = torch.zeros_like(at_edge) if options.padding == "zeros" else at_edge
            return torch.cat([edge, band[:, :-stride]] if past else [band[:, stride:], edge], dim=1)

        left = moved(bands_from_past, from_past, True)
        middle = features[:, :, k : features.shape[2] - k]
        if bands_from_future is None:
            parts = [left[:, :, :k], middle, left[:, :, k:]]
        else:
            parts = [left, middle, moved(bands_from_future, from_future, False)]
        return skip, torch.cat(parts, dim=2).flatten(0, 1)

    def time_embedding(self, embedding: Tensor) -> Tensor:
        """The batch's own: its frames are the same at each layer."""
        return embedding

    def _receive(self, band: Tensor, offset: int, periodic: bool) -> Tensor | None:
        """The frames of the neighbour before (offset < 0) or after, while this process's go the other way.

        None at an end of the clip. band: (B, rows, channels, H, W).
        """
        step = 1 if offset > 0 else -1
        source, target = self.rank + step, self.rank - step
        edge = (band[:, :offset] if offset > 0 else band[:, offset:]).contiguous()
        if periodic:
            source, target = source % self.processes, target % self.processes
            if source == self.rank:
                return edge
        operations, received = [], None
        if 0 <= target < self.processes:
            operations.append(dist.P2POp(dist.isend, edge, self._peer(target), self.group))
        if 0 <= source < self.processes:
            received = torch.empty_like(edge)
            operations.append(dist.P2POp(dist.irecv, received, self._peer(source), self.group))
        for work in dist.batch_isend_irecv(operations) if operations else ():
            work.wait()
        return received

    def _peer(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)
