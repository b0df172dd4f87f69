"""Transparency: the flat ground taken away, edges unmixed, and what files keep of it."""

import numpy as np
import pytest
from PIL import Image

from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.media import read_clip, remove_ground, write_clip

GROUND, FIGURE = np.array([20, 25, 80]), np.array([235, 200, 40])


def disk(ground=GROUND, frames=3, size=48):
    """A disk with soft edges and an eye of the ground's colour: frames, and its share of each pixel."""
    y, x = np.mgrid[:size, :size] + 0.5
    alpha = np.stack([np.clip(14.5 - np.hypot(x - 20 - 3 * f, y - 24), 0, 1) for f in range(frames)])
    clip = alpha[..., None] * FIGURE + (1 - alpha[..., None]) * ground
    for frame in range(frames):
        clip[frame, 22:26, 18 + 3 * frame : 22 + 3 * frame] = ground
    return clip.round().astype(np.uint8), alpha


@pytest.mark.parametrize("ground", [GROUND, np.array([255, 255, 255]), np.array([120, 190, 120])])
def test_the_ground_goes_and_edges_are_unmixed(ground):
    clip, alpha = disk(ground)
    found = remove_ground(clip)
    assert found.shape == (3, 48, 48, 4)
    assert np.abs(found[..., 3] / 255 - alpha).max() < 0.12
    # No rim of the old ground: every visible pixel outside the eye has the figure's own colour.
    eye = (clip == ground).all(axis=-1)
    visible = (found[..., 3] > 30) & ~eye
    assert np.abs(found[..., :3][visible].astype(int) - FIGURE).max() < 40
    # An eye of the ground's colour inside the figure stays.
    assert (found[eye & (alpha == 1)] == [*ground, 255]).all()


def test_a_figure_at_the_border_is_no_obstacle():
    clip, _ = disk()
    found = remove_ground(clip[:, :, 12:])
    assert (found[:, 0, -1, 3] == 0).all()
    assert (found[:, 24, 0, 3] == 255).all()


def test_a_clip_without_a_flat_ground_is_an_error():
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="no flat ground that could be made transparent"):
        remove_ground(noise)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_files_keep_the_transparency(tmp_path, suffix):
    frames = remove_ground(disk()[0])
    shown = frames if suffix != ".png" else frames[:1]
    path = write_clip(tmp_path / f"clip{suffix}", shown, fps=8, settings={"prompt": "a disk"})
    with Image.open(path) as image:
        for number in range(len(shown)):
            image.seek(number)
            stored = np.asarray(image.convert("RGBA"))
            own = shown[number]
            if suffix == ".gif":  # on or off
                assert (stored[..., 3] == np.where(own[..., 3] < 128, 0, 255)).all()
            else:
                assert (stored[..., 3] == own[..., 3]).all()
            visible = stored[..., 3] > 0
            difference = np.abs(stored[visible].astype(int) - own[visible])[:, :3]
            assert difference.max() <= (30 if suffix == ".gif" else 0)
    if suffix != ".png":
        back, fps = read_clip(path)
        assert fps == 8
        assert len(back) == 3
        assert (back[:, 0, 0] == 255).all()  # readers without transparency see it on white


def test_a_sheet_of_frames_is_see_through_between_them(tmp_path):
    frames = remove_ground(disk()[0])
    with Image.open(write_clip(tmp_path / "sheet.png", frames)) as image:
        assert image.mode == "RGBA"
        assert np.asarray(image)[0, 0, 3] == 0


def test_mp4_has_none(tmp_path):
    with pytest.raises(ValueError, match="holds no transparency; write one of"):
        write_clip(tmp_path / "clip.mp4", remove_ground(disk()[0]))


def test_the_command_knows_only_transparent(tmp_path, capsys):
    assert errors.run(app, ["generate", "a red circle", "-o", str(tmp_path), "--background", "navy"]) == 2
    assert "--background navy: expected one of transparent" in capsys.readouterr().err


@pytest.mark.slow
def test_the_built_in_model_is_cut_out_and_mp4_keeps_its_ground(tmp_path, capsys):
    prompt = "a large red heart moving left on a navy background"
    options = ["--seed", "1", "--steps", "4", "--background", "transparent"]
    assert errors.run(app, ["generate", prompt, *options, "-o", str(tmp_path / "heart.gif")]) == 0
    with Image.open(tmp_path / "heart.gif") as image:
        assert np.asarray(image.convert("RGBA"))[0, 0, 3] == 0
    assert errors.run(app, ["generate", prompt, *options, "-o", str(tmp_path / "heart.mp4")]) == 0
    assert "holds no transparency: it keeps its ground" in capsys.readouterr().err
    frames, _ = read_clip(tmp_path / "heart.mp4")
    assert np.abs(frames[:, 0, 0].astype(int) - [20, 25, 80]).max() < 40
