"""The benchmarks of long clips and loops, on clips of which the answers are known."""

import numpy as np

from benchmark_module import benchmark_module
from latent_shift.media import write_clip
from latent_shift.moving_shapes import render
from latent_shift.moving_shapes.captions import caption
from latent_shift.moving_shapes.protocol import SUBSETS


def test_drift_is_found_where_it_is_and_only_there(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 110, (640, 8, 8, 3)).astype(np.uint8)
    frames[..., 0] += np.linspace(0, 50, 640).astype(np.uint8)[:, None, None]
    with benchmark_module("long_clips") as module:
        series = module.by_frame(frames)
        change, low, high = module.slope(series["red"])
        assert 40 < low < change < high < 60
        _, low, high = module.slope(series["green"])
        assert low < 0 < high
        flat, edges = np.zeros((1, 8, 8, 3), np.uint8), frames[:1]
        assert module.by_frame(flat)["sharpness"] == 0 < module.by_frame(edges)["sharpness"]
        file = write_clip(tmp_path / "clip.webp", frames[::10])
        module.print_drift(file, tmp_path / "drift.svg")
    assert "64 frames" in capsys.readouterr().out
    assert (tmp_path / "drift.svg").stat().st_size > 1000


def test_seams_and_what_is_right():
    there, back = np.arange(8), np.arange(8)[::-1]
    line, loop = there, np.concatenate([there[:4] * 2, back[4:] * 2])
    clips = np.stack([np.broadcast_to(each[:, None, None, None], (8, 2, 2, 3)) for each in (line, loop)])
    with benchmark_module("loops") as module:
        seams, steps = module.differences(clips.astype(np.uint8))
        assert seams[0] == 7
        assert steps[0] == 1
        assert seams[1] == abs(int(loop[-1]) - int(loop[0]))
        low, high = module.interval(np.ones(9), np.full(9, 2.0))
        assert low == high == 0.5
        scenes = SUBSETS["level-1-seen"].scenes(2)
        real = render(scenes, range(16))
        assert module.right(real, [caption(scene) for scene in scenes]) == (1.0, 1.0, 1.0)
        colour, shape, background = module.right(real[::-1], [caption(scene) for scene in scenes])
        assert min(colour, shape, background) < 1
