"""A process of two that share clips: compares with the pass of all frames, prints the greatest error."""

import sys

import torch
import torch.distributed as dist

from latent_shift.shared_clip import predict_shared
from latent_shift.systems.first_frame import FirstFrameAttention
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift
from tiny import tiny_unet

OPTIONS = (
    {},
    {"padding": "replicate", "strides": (3, 1)},
    {"padding": "circular", "strides": (2, 1)},
    {"direction": "causal", "place": "input"},
)


@torch.no_grad()
def main(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    unet, frames, errors = tiny_unet(), 7, []
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2 * frames, 4, 8, 8, generator=generator)
    text = torch.randn(2 * frames, 3, 16, generator=generator)
    for options in (*OPTIONS, None):
        disable_temporal_shift(unet)
        if options is not None:
            enable_temporal_shift(unet, frames, **options)
        whole = unet(sample, 5, text).sample
        shared = predict_shared(unet, sample, 5, text, num_frames=frames)
        errors.append(float((shared - whole).abs().max()))
    enable_temporal_shift(unet, frames, strides=(4,))
    try:
        predict_shared(unet, sample, 5, text, num_frames=frames)
    except ValueError as error:
        print(error)
    enable_temporal_shift(unet, frames)
    processors = dict(unet.attn_processors)
    unet.set_attn_processor({name: FirstFrameAttention(one) for name, one in processors.items()})
    try:
        predict_shared(unet, sample, 5, text, num_frames=frames)
    except ValueError as error:
        print(error)
    unet.set_attn_processor(processors)
    print(max(errors))
    enable_temporal_shift(unet, 4)  # the first part without the neighbours behind it
    alone = unet(sample[:4], 5, text[:4]).sample
    enable_temporal_shift(unet, frames)
    print(float((alone - predict_shared(unet, sample, 5, text, num_frames=frames)[:4]).abs().max()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
