"""From a folder of clips to features: what is read, what is refused, and that it repeats itself."""

import numpy as np
import pytest
import torch
from torch import nn

from clips import numbers, write_video
from latent_shift.evaluation.clip_files import (
    ClipReadOptions,
    choose_clips,
    list_clips,
    read_frames,
    scan_folder,
)
from latent_shift.evaluation.extractors.base import Extractor, ExtractorInfo, ExtractorOutput, Preprocessing
from latent_shift.evaluation.extractors.registry import ExtractorOptions
from latent_shift.evaluation.metrics.base import MetricOptions
from latent_shift.evaluation.metrics.distances import frechet_of_rows
from latent_shift.evaluation.metrics.scores import flicker_metric, motion_metric
from latent_shift.evaluation.runner import extract
from latent_shift.evaluation.sources import ClipSource, FolderClips
from latent_shift.media import write_clip, write_image


class Means(Extractor):
    """The mean colour of each frame (per "frame") or clip, and of its last frame less its first."""

    def __init__(self, per="clip"):
        super().__init__(
            nn.Identity(),
            ExtractorInfo("means", "all", "0" * 12, per, 3, classifies=True),
            Preprocessing(8, "bilinear", True),
            ExtractorOptions(),
        )

    def run(self, pixels):
        means = pixels.mean(dim=(3, 4))
        features = means.flatten(0, 1) if self.info.per == "frame" else means.mean(dim=1)
        return ExtractorOutput(features, features * 2)


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
    found = scan_folder(folder, ClipReadOptions(frames=4))
    assert [found.name(clip) for clip in found.clips] == ["0.mp4", "1.mp4", "2.mp4", "more/3.mp4"]
    assert numbers(read_frames(found.clips[0], ClipReadOptions(frames=4))) == [0, 1, 2, 3]
    assert numbers(read_frames(found.clips[0], ClipReadOptions(frames=4, fps=4))) == [0, 2, 4, 6]
    assert found.captions[folder / "0.mp4"] == "a gray clip"
    assert found.captions.get(folder / "1.mp4") is None


def test_animated_webp_counts_as_a_clip(tmp_path):
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    frames[2] = 200
    write_clip(tmp_path / "a.webp", frames)
    write_image(tmp_path / "b.png", frames[0])
    assert [file.name for file in list_clips(tmp_path)] == ["a.webp"]
    assert [file.name for file in list_clips(tmp_path, images=True)] == ["a.webp", "b.png"]
    assert np.array_equal(read_frames(tmp_path / "a.webp", ClipReadOptions(frames=4)), frames)


def test_short_clips_are_listed_and_refused_unless_allowed(folder):
    with pytest.raises(ValueError, match=r"1 files are too short.*0\.mp4: has 12 frames, 13.*--allow-short"):
        scan_folder(folder, ClipReadOptions(frames=13))
    found = scan_folder(folder, ClipReadOptions(frames=13), allow_short=True)
    assert list(found.short) == ["0.mp4"]
    assert len(found.clips) == 3
    with pytest.raises(ValueError, match=r"ends at 1\.50 s, 1\.50 s are|ends at"):
        scan_folder(folder, ClipReadOptions(frames=8, fps=4))
    with pytest.raises(ValueError, match=r"has 8 frames a second, 30 are requested"):
        scan_folder(folder, ClipReadOptions(frames=8, fps=30))
    with pytest.raises(ValueError, match="holds no clip that can be used"):
        scan_folder(folder, ClipReadOptions(frames=99), allow_short=True)


def test_unreadable_files_are_listed_and_refused_unless_allowed(folder):
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"2 files cannot be read.*bad\.mp4.*empty\.mp4.*--allow-unreadable"):
        scan_folder(folder, ClipReadOptions(frames=4))
    found = scan_folder(folder, ClipReadOptions(frames=4), allow_unreadable=True)
    assert set(found.unreadable) == {"bad.mp4", "empty.mp4"}
    assert len(found.clips) == 4


def test_mixed_sizes_are_refused_unless_said_how_to_fit(folder):
    write_video(folder / "wide.mp4", count=12, size=(48, 96))
    with pytest.raises(ValueError, match=r"2 sizes: 64 x 48 \(0\.mp4\); 96 x 48 \(wide\.mp4\); say --fit"):
        scan_folder(folder, ClipReadOptions(frames=4))
    assert read_frames(folder / "wide.mp4", ClipReadOptions(frames=4, fit="crop")).shape == (4, 48, 48, 3)
    assert read_frames(folder / "wide.mp4", ClipReadOptions(frames=4, fit="stretch")).shape == (4, 48, 96, 3)
    assert len(scan_folder(folder, ClipReadOptions(frames=4, fit="crop")).clips) == 5
    stretched = FolderClips(folder, ClipReadOptions(4, fit="stretch"), batch_size=8)
    sizes = [batch.clips.shape for batch in stretched.batches()]
    assert sizes == [(4, 4, 48, 64, 3), (1, 4, 48, 96, 3)]


def test_empty_folders_and_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        scan_folder(tmp_path / "none", ClipReadOptions())
    with pytest.raises(ValueError, match=r"is empty of clips; expected files of \.mp4"):
        scan_folder(tmp_path, ClipReadOptions())
    for wrong in ({"frames": 0}, {"fps": 0}, {"fit": "pad"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            ClipReadOptions(**wrong)


def test_clips_are_chosen_by_seed(folder):
    files = list_clips(folder)
    assert choose_clips(files, None, 0) == files
    assert choose_clips(files, 2, 1) == choose_clips(files, 2, 1)
    assert {tuple(choose_clips(files, 2, seed)) for seed in range(9)} > {tuple(choose_clips(files, 2, 1))}
    with pytest.raises(ValueError, match="5 clips are requested, there are 4"):
        choose_clips(files, 5, 0)


def extracted(folder, batch=3, per="clip", **options):
    source = FolderClips(folder, ClipReadOptions(frames=4), batch_size=batch)
    return extract(source, [Means(per)], **options)


def test_one_pass_gives_features_statistics_and_pixels_and_repeats(folder):
    done, seen = [], []
    first = extracted(
        folder, on_progress=lambda *progress: done.append(progress), on_batch=lambda batch: seen.append(batch)
    )
    again = extracted(folder)
    features = first.features["means"]
    assert done == [("clips", 3, 4), ("clips", 4, 4)]
    assert features.rows.shape == (4, 3)
    assert np.array_equal(features.rows, again.features["means"].rows)
    assert np.array_equal(features.moments.scatter, again.features["means"].moments.scatter)
    np.testing.assert_allclose(features.moments.mean, features.rows.mean(axis=0), rtol=1e-6)
    assert np.array_equal(features.logits, features.rows * 2)
    assert first.names == list(features.clips) == ["0.mp4", "1.mp4", "2.mp4", "more/3.mp4"]
    pixels = {}
    for name, make in (("flicker", flicker_metric), ("motion", motion_metric)):
        metric = make(MetricOptions())
        for batch in seen:
            metric.update(batch)
        pixels[name] = metric.values
    assert len(pixels["flicker"]) == len(pixels["motion"]) == 4
    assert all(5 < one < 9 for one in pixels["flicker"])  # neighbours are 7 levels apart
    assert all(one > 5 for one in pixels["motion"])
    assert features.settings.frames == 4
    assert features.settings.fps == "own"
    assert {"torch", "numpy"} <= set(features.provenance.versions)


def test_frame_features_have_a_row_a_frame_and_rows_can_be_left_out(folder):
    whole = extracted(folder, per="frame").features["means"]
    assert whole.rows.shape == (16, 3)
    assert whole.rows_per_clip == 4
    bare = extracted(folder, per="frame", keep_rows=False).features["means"]
    assert bare.rows is None
    assert bare.moments.count == 16
    assert np.array_equal(bare.moments.mean, whole.moments.mean)


def test_no_clips_at_all_are_refused():
    class Nothing(ClipSource):
        def __len__(self):
            return 0

        def batches(self):
            return iter(())

    with pytest.raises(ValueError, match="nothing: there are no clips"):
        extract(Nothing("nothing", ClipReadOptions()), [Means()])


def test_features_that_are_not_finite_are_refused(folder):
    class Broken(Means):
        def run(self, pixels):
            return ExtractorOutput(torch.full((len(pixels), 3), float("nan")), None)

    with pytest.raises(ValueError, match="not finite"):
        extract(FolderClips(folder, ClipReadOptions(frames=1)), [Broken()])


def test_noise_blur_shuffling_and_freezing_raise_a_clip_distance():
    """On an extractor that sees time: the scorer's measures of Moving Shapes, or a plain difference here."""
    from latent_shift.evaluation.sensitivity import CORRUPTIONS, corrupt

    class Moving(Means):
        def run(self, pixels):
            steps = (pixels[:, 1:] - pixels[:, :-1]).mean(dim=2).flatten(1)
            return ExtractorOutput(torch.cat([pixels[:, :, 0].flatten(1), steps], dim=1), None)

    chance = np.random.default_rng(0)
    clips = np.zeros((40, 6, 16, 16, 3), np.uint8)
    for clip in clips:
        row, column = chance.integers(0, 8, 2)
        for moment in range(6):
            clip[moment, row : row + 5, column + moment : column + moment + 5] = 220
    extractor = Moving()

    def rows(some):
        return extractor(torch.from_numpy(some)).features.numpy()

    for kind in CORRUPTIONS:
        distances = [
            frechet_of_rows(rows(clips), rows(corrupt(clips, kind, amount))) for amount in (0, 0.3, 1)
        ]
        assert distances[0] == pytest.approx(0, abs=1e-3), kind
        assert distances[0] < distances[1] < distances[2], kind
