"""Motions seen in clips of emoji: which of thirteen a composed clip shows, and how one moves by itself.

Place, size and turn are those of what is not ground; they are measured as Moving Shapes' scorer does. Of how
an emoji moves by itself, `motion_features` keeps where and how fast pixels change, and not what they show.

Shape legend: F frames, H, W pixels, G cells of a grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from latent_shift.emoji.constants import STILL
from latent_shift.emoji.eyes import Frames, border_colour, boxes, cover, crop
from latent_shift.moving_shapes.constants import DIRECTIONS
from latent_shift.moving_shapes.scorer.motion_match import size_change
from latent_shift.moving_shapes.scorer.tracking import rotation_spectrum, track_object

Floats = NDArray[np.float32]

FROZEN = 0.35  # mean change from frame to frame, in colour levels, under which a clip stands still
_GRID = 8
_MIN_TRAVEL = 0.4  # of the centre from first to last frame; real travels are 0.6 on an axis or longer
_MIN_GROWTH = 0.4  # in units of the mean size; growing has 1.09
_MIN_TURNS, _MAX_TURNS, _MIN_GAIN = 0.4, 1.7, 0.2


def name_motion(clip: Frames) -> str | None:
    """The motion of a composed clip (F, H, W, 3); None where there is no picture."""
    colour = border_colour(clip)
    covered = cover(clip, colour)
    track = track_object(covered, np.zeros(covered.shape, bool))
    if track.present.sum() < 3:
        return None
    if turns := _turns(clip, colour, track):
        return "spinning clockwise" if turns > 0 else "spinning counterclockwise"
    growth = size_change(track)
    if growth is not None and abs(growth) > _MIN_GROWTH:
        return "growing" if growth > 0 else "shrinking"
    there = track.present
    t = np.linspace(-0.5, 0.5, len(there))[there]
    across, down = (float(np.polyfit(t, values[there], 1)[0]) for values in (track.x, track.y))
    if np.hypot(across, down) < _MIN_TRAVEL:
        return STILL
    cosines = {name: (across * x + down * y) / float(np.hypot(x, y)) for name, (x, y) in DIRECTIONS.items()}
    return max(cosines, key=lambda name: cosines[name])


def _turns(clip: Frames, colour: Floats, track: object) -> float:
    """Turns over the clip, clockwise positive; 0 for a picture that does not turn as one."""
    # By brightness against the ground, and not by coverage: a round face turns, too.
    gray = np.linalg.norm(clip.astype(np.float32) - colour, axis=-1) / 255
    spectrum = rotation_spectrum(gray.astype(np.float32), track)  # type: ignore[arg-type]
    turns = spectrum.best(_MAX_TURNS)
    gain = spectrum.at(turns) - spectrum.at(0.0)
    return turns if abs(turns) >= _MIN_TURNS and gain >= _MIN_GAIN else 0.0


def mean_change(clip: Frames) -> float:
    """Mean change of a pixel from frame to frame, in colour levels."""
    return float(np.abs(np.diff(clip.astype(np.float32), axis=0)).mean())


def seam(clip: Frames) -> float:
    """Change from the last frame to the first, over the mean change of neighbouring frames."""
    step = mean_change(clip)
    return float(np.abs(clip[-1].astype(np.float32) - clip[0]).mean()) / max(step, 1e-3)


def motion_features(clip: Frames) -> Floats:
    """Changes of a clip (F, H, W, 3) as a unit vector: per cell of a grid, strength by frequency.

    Of the box of the whole clip, whatever its size and place. The phase falls away, so that a window of a
    loop may begin anywhere, and the mean picture with it.
    """
    colour = border_colour(clip)
    each = boxes(cover(clip, colour))
    low, high = (each[:, :2] - each[:, 2:]).min(axis=0), (each[:, :2] + each[:, 2:]).max(axis=0)
    box = np.array([*(low + high) / 2, (high - low).max() / 2], np.float32)
    crops = crop(clip, colour, np.repeat(box[None], len(clip), axis=0), 4 * _GRID)
    cells = functional.adaptive_avg_pool2d(crops.diff(dim=0).abs().mean(1, keepdim=True), _GRID)
    steps = cells.flatten(1).numpy()  # (F - 1, G)
    signed = functional.adaptive_avg_pool2d(crops, _GRID).flatten(1).numpy()  # (F, 3 G)
    spectrum = np.abs(np.fft.rfft(signed - signed.mean(axis=0), axis=0))[1:]
    parts = [spectrum.ravel(), 2 * np.sqrt(len(clip)) * steps.mean(axis=0)]
    features = np.concatenate([part / max(float(np.linalg.norm(part)), 1e-6) for part in parts])
    return (features / max(float(np.linalg.norm(features)), 1e-6)).astype(np.float32)
