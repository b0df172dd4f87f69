"""From a folder of clips to features: what is read, what is refused, and that it repeats itself."""

import numpy as np
import pytest
import torch
from torch import nn

from clips import numbers, write_video
from latent_shift.evaluation.extractors.interface import Extracted, Extractor, Facts
from latent_shift.evaluation.extractors.resizing import View
from latent_shift.evaluation.features.passing import Collector, measure_clips, named_batches
from latent_shift.evaluation.features.reading import (
    Reading,
    caption_of,
    choose,
    list_clips,
    read_one,
    survey,
)
from latent_shift.evaluation.metrics.frechet import frechet_of_rows
from latent_shift.media import write_clip, write_image


class Means(Extractor):
    """The mean colour of each frame (per "frame") or clip, and of its last frame less its first."""

    def __init__(self, per="clip"):
        super().__init__(
            nn.Identity(), Facts("means", "all", "0" * 12, per, 3), View(8, "bilinear", True), "cpu"
        )

    def run(self, pixels):
        means = pixels.mean(dim=(3, 4))
        features = means.flatten(0, 1) if self.facts.per == "frame" else means.mean(dim=1)
        return Extracted(features, features * 2)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "clips"
    (place / "more").mkdir(parents=True)
    for number in range(3):
        write_video(place / f"{number}.mp4", count=12 + number, fps=8)
    write_video(place / "more" / "3.mp4", count=20, fps=8)
    (place / "0.txt").write_text("a gray clip\nsecond\n")
    (place / "notes.md").write_text("not a clip")
    return place


def test_the_first_frames_are_read_in_order_of_names(folder):
    found = survey(folder, Reading(frames=4))
    assert [found.name(clip) for clip in found.clips] == ["0.mp4", "1.mp4", "2.mp4", "more/3.mp4"]
    assert numbers(read_one(found.clips[0], Reading(frames=4))) == [0, 1, 2, 3]
    assert numbers(read_one(found.clips[0], Reading(frames=4, fps=4))) == [0, 2, 4, 6]
    assert caption_of(folder / "0.mp4") == "a gray clip"
    assert caption_of(folder / "1.mp4") is None


def test_animated_webp_counts_as_a_clip(tmp_path):
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    frames[2] = 200
    write_clip(tmp_path / "a.webp", frames)
    write_image(tmp_path / "b.png", frames[0])
    assert [file.name for file in list_clips(tmp_path)] == ["a.webp"]
    assert [file.name for file in list_clips(tmp_path, images=True)] == ["a.webp", "b.png"]
    assert np.array_equal(read_one(tmp_path / "a.webp", Reading(frames=4)), frames)


def test_short_clips_are_listed_and_refused_unless_allowed(folder):
    with pytest.raises(ValueError, match=r"1 files are too short.*0\.mp4: has 12 frames, 13.*--allow-short"):
        survey(folder, Reading(frames=13))
    found = survey(folder, Reading(frames=13), allow_short=True)
    assert list(found.short) == ["0.mp4"]
    assert len(found.clips) == 3
    with pytest.raises(ValueError, match=r"ends at 1\.50 s, 1\.50 s are|ends at"):
        survey(folder, Reading(frames=8, fps=4))
    with pytest.raises(ValueError, match=r"has 8 frames a second, 30 are asked for"):
        survey(folder, Reading(frames=8, fps=30))
    with pytest.raises(ValueError, match="holds no clip that can be used"):
        survey(folder, Reading(frames=99), allow_short=True)


def test_unreadable_files_are_listed_and_refused_unless_allowed(folder):
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"2 files cannot be read.*bad\.mp4.*empty\.mp4.*--allow-unreadable"):
        survey(folder, Reading(frames=4))
    found = survey(folder, Reading(frames=4), allow_unreadable=True)
    assert set(found.unreadable) == {"bad.mp4", "empty.mp4"}
    assert len(found.clips) == 4


def test_mixed_sizes_are_refused_unless_said_how_to_fit(folder):
    write_video(folder / "wide.mp4", count=12, size=(48, 96))
    with pytest.raises(ValueError, match=r"2 sizes: 64 x 48 \(0\.mp4\); 96 x 48 \(wide\.mp4\); say --fit"):
        survey(folder, Reading(frames=4))
    assert read_one(folder / "wide.mp4", Reading(frames=4, fit="crop")).shape == (4, 48, 48, 3)
    assert read_one(folder / "wide.mp4", Reading(frames=4, fit="stretch")).shape == (4, 48, 96, 3)
    assert len(survey(folder, Reading(frames=4, fit="crop")).clips) == 5
    files = list_clips(folder)
    sizes = [clips.shape for _, clips in named_batches(files, folder, Reading(4, fit="stretch"), batch=8)]
    assert sizes == [(4, 4, 48, 64, 3), (1, 4, 48, 96, 3)]


def test_empty_folders_and_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        survey(tmp_path / "none", Reading())
    with pytest.raises(ValueError, match=r"is empty of clips; expected files of \.mp4"):
        survey(tmp_path, Reading())
    for wrong in ({"frames": 0}, {"fps": 0}, {"fit": "pad"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            Reading(**wrong)


def test_clips_are_chosen_by_seed(folder):
    files = list_clips(folder)
    assert choose(files, None, 0) == files
    assert choose(files, 2, 1) == choose(files, 2, 1)
    assert {tuple(choose(files, 2, seed)) for seed in range(9)} > {tuple(choose(files, 2, 1))}
    with pytest.raises(ValueError, match="5 clips are asked for, there are 4"):
        choose(files, 5, 0)


def measured(folder, batch=3, per="clip", **options):
    reading = Reading(frames=4)
    batches = named_batches(list_clips(folder), folder, reading, batch)
    return measure_clips(batches, [Means(per)], reading, source="a folder", **options)


def test_one_pass_gives_features_statistics_and_pixels_and_repeats(folder):
    done = []
    first, again = measured(folder, show_done=done.append), measured(folder)
    features = first.features["means"]
    assert done == [3, 4]
    assert features.rows.shape == (4, 3)
    assert np.array_equal(features.rows, again.features["means"].rows)
    assert np.array_equal(features.moments.scatter, again.features["means"].moments.scatter)
    np.testing.assert_allclose(features.moments.mean, features.rows.mean(axis=0), rtol=1e-6)
    assert np.array_equal(features.logits, features.rows * 2)
    assert first.names == list(features.clips) == ["0.mp4", "1.mp4", "2.mp4", "more/3.mp4"]
    assert all(5 < one < 9 for one in first.pixels.flicker)  # neighbours are 7 levels apart
    assert all(one > 5 for one in first.pixels.motion)
    assert features.settings.frames == 4
    assert features.settings.fps == "own"
    assert {"torch", "numpy"} <= set(features.provenance.versions)


def test_frame_features_have_a_row_a_frame_and_rows_can_be_left_out(folder):
    whole = measured(folder, per="frame").features["means"]
    assert whole.rows.shape == (16, 3)
    assert whole.rows_per_clip == 4
    bare = measured(folder, per="frame", keep_rows=False).features["means"]
    assert bare.rows is None
    assert bare.moments.count == 16
    assert np.array_equal(bare.moments.mean, whole.moments.mean)


def test_no_clips_at_all_are_refused():
    with pytest.raises(ValueError, match="there are no clips"):
        measure_clips([], [Means()], Reading(), source="nothing")


def test_features_that_are_not_finite_are_refused():
    class Broken(Means):
        def run(self, pixels):
            return Extracted(torch.full((len(pixels), 3), float("nan")), None)

    collector = Collector(Broken(), Reading(frames=1))
    with pytest.raises(ValueError, match="not finite"):
        collector.add(["x"], np.zeros((1, 1, 8, 8, 3), np.uint8))


def test_noise_blur_shuffling_and_freezing_raise_a_clip_distance():
    """On an extractor that sees time: the scorer's measures of Moving Shapes, or a plain difference here."""
    from latent_shift.evaluation.features.degrading import DEGRADATIONS, degrade

    class Moving(Means):
        def run(self, pixels):
            steps = (pixels[:, 1:] - pixels[:, :-1]).mean(dim=2).flatten(1)
            return Extracted(torch.cat([pixels[:, :, 0].flatten(1), steps], dim=1), None)

    chance = np.random.default_rng(0)
    clips = np.zeros((40, 6, 16, 16, 3), np.uint8)
    for clip in clips:
        row, column = chance.integers(0, 8, 2)
        for moment in range(6):
            clip[moment, row : row + 5, column + moment : column + moment + 5] = 220
    extractor = Moving()

    def rows(some):
        return extractor(torch.from_numpy(some)).features.numpy()

    for kind in DEGRADATIONS:
        distances = [
            frechet_of_rows(rows(clips), rows(degrade(clips, kind, amount))) for amount in (0, 0.3, 1)
        ]
        assert distances[0] == pytest.approx(0, abs=1e-3), kind
        assert distances[0] < distances[1] < distances[2], kind
