"""How fast clips are read: the training's loader against plain PyAV, which is the ceiling.

    python benchmarks/loader.py CLIPS [--frames 16] [--fps 8] [--side 64] [--items 200] [--workers 0 1 2]

CLIPS is any source of docs/data.md. Plain PyAV opens each file, decodes it from its start until as many
frames were seen, and keeps them as RGB arrays: no times, no turning, no resizing, no captions. Prints clips a
second.
"""

from __future__ import annotations

import argparse
import platform
import time
from itertools import islice

import av
import numpy as np
import torch

from latent_shift.data.sources import detect_source
from latent_shift.data.video_dataset import ClipSettings, VideoDataset
from latent_shift.training.datasets import loader


def plain(paths: list[str], frames: int, items: int) -> float:
    """Clips a second of PyAV alone, in one thread."""
    began = time.perf_counter()
    for item in range(items):
        with av.open(paths[item % len(paths)]) as container:
            container.streams.video[0].codec_context.thread_count = 1  # more cost more on small clips
            pictures = islice(container.decode(video=0), frames)
            np.stack([picture.to_ndarray(format="rgb24", threads=1) for picture in pictures])
    return items / (time.perf_counter() - began)


def ours(videos: VideoDataset, items: int, workers: int, batch: int = 8) -> float:
    """Clips a second of the training's loader, after its first batch."""
    batches = iter(loader(videos, batch, 0, 0, workers=workers, rank=0, world_size=1))
    next(batches)
    began, seen = time.perf_counter(), 0
    while seen < items:
        seen += len(next(batches)["caption"])
    return seen / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clips")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    manifest = detect_source(given.clips).read()
    seen = ClipSettings(
        num_frames=given.frames, fps=given.fps, height=given.side, width=given.side, max_bad_share=1.0
    )
    videos = VideoDataset(manifest, seen, seed=0)
    for index in range(len(videos)):
        videos[index]  # once: too short and broken ones are known then
    good = [record for index, record in enumerate(videos.records) if index not in videos.bad]
    versions = f"torch {torch.__version__}, av {av.__version__}"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}")
    print(f"{len(good)} clips, {given.frames} frames at {given.fps:g} a second, {given.side} pixels")
    paths = [str(record.file.open()) for record in good]
    print(f"plain PyAV, decoding from the start      {plain(paths, given.frames, given.items):7.1f} clips/s")
    for workers in given.workers:
        rate = ours(videos, given.items, workers)
        print(f"the loader, {workers} processes beside           {rate:7.1f} clips/s")


if __name__ == "__main__":
    main()
