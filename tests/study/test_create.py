"""Making a study: which clips belong to which prompts, clips that tell nothing, and mistakes."""

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latent_shift.generation import slug
from latent_shift.media import read_clip, write_clip
from latent_shift.study.create import create_study, spoil
from latent_shift.study.design import DesignOptions, read_study
from latent_shift.study.sources import Folder, ReadOptions, check_prompts, open_sources
from latent_shift.study.store import StudyStore
from studies import FPS, PROMPTS, TEXTS, make_clip, make_folder
from tiny import tiny_pipeline_folder


def create(folder, *sources, prompts=PROMPTS, read=None, resolution=None, **options):
    opened = open_sources([str(one) for one in sources], prompts, read or ReadOptions())
    return create_study(opened, prompts, folder, DesignOptions(**options), resolution=resolution)


def test_an_empty_folder_by_any_name_becomes_the_study(sources, tmp_path, monkeypatch):
    for name in ("here", "real"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path("."), tmp_path / "link"):
        create(folder, *sources.values())
        assert read_study(folder)[0].prompts == TEXTS
        assert not [file for file in folder.iterdir() if file.name.startswith(".") and file.is_dir()]
    assert (tmp_path / "link").is_symlink()


def test_study_file_holds_all_that_is_decided(made_study):
    study, _ = read_study(made_study)
    assert study.prompts == TEXTS
    assert [source.name for source in study.sources] == ["aardvark", "zebra"]
    assert len(study.queue) == 3 * len(TEXTS)
    assert study.raters_needed == len(study.sessions) == 4
    assert (study.options.raters_per_pair, study.options.pairs_per_rater) == (3, 6)
    assert study.options.rule.catch_right == 0.75
    assert study.height % 32 == 0
    assert min(study.height, study.width) >= 256  # small clips are enlarged by whole pixels
    for known in (*study.training, *study.catches):
        assert set(known.expected) == {"quality", "faithfulness"}
    assert {known.expected["faithfulness"] for known in study.training} == {
        0,
        1,
    }  # not always the cleaner one


def test_files_of_clips_tell_nothing_of_their_source(made_study):
    study, _ = read_study(made_study)
    files = sorted((made_study / "clips").iterdir())
    assert [file.stem for file in files] == [clip.id for clip in study.clips]  # no order of sources either
    seen = set()
    for file in files:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            shape = (stream.width, stream.height, stream.frames, stream.average_rate, stream.pix_fmt)
            metadata = (tuple(sorted(container.metadata)), tuple(sorted(stream.metadata)))
            seen.add((stream.codec_context.name, *shape, *metadata, file.stat().st_mtime))
        for word in (b"aardvark", b"zebra", b"prompt", b"latent"):
            assert word not in file.read_bytes()
    assert len(seen) == 1
    sources = [clip.source for clip in study.clips if clip.source is not None]
    assert sources not in (sorted(sources), sorted(sources, reverse=True))


def test_clips_are_those_of_the_folders(made_study):
    study, _ = read_study(made_study)
    for clip in study.clips:
        if clip.source is not None:
            frames, fps = read_clip(made_study / "clips" / f"{clip.id}.mp4")
            shade = {"aardvark": 60, "zebra": 180}[clip.source]
            own = make_clip(shade, clip.prompt).repeat(8, axis=1).repeat(8, axis=2)
            assert fps == FPS
            assert np.abs(frames.astype(int) - own).mean() < 8, clip


def test_clips_belong_to_prompts_by_settings_captions_outputs_and_names(tmp_path, sources):
    folder = tmp_path / "mixed"
    write_clip(folder / "x.mp4", make_clip(90, 0), FPS, {"prompt": f" {TEXTS[0]} ", "seed": 1})
    write_clip(folder / "y.mp4", make_clip(90, 1), FPS)
    (folder / "y.txt").write_text(f"{TEXTS[1]}\n")
    write_clip(folder / "deep" / "0003.mp4", make_clip(90, 2), FPS)
    write_clip(
        folder / "Four-Gray-Hills-sleep-77.mp4", make_clip(90, 3), FPS
    )  # with a seed, as generate names
    prompts = [*PROMPTS[:2], {"prompt": TEXTS[2], "output": "deep/0003.mp4"}, *PROMPTS[3:]]
    with pytest.warns(UserWarning, match="4 of 8 prompts are left out"):
        study = create(tmp_path / "study", folder, sources["zebra"], prompts=prompts)
    assert study.prompts == TEXTS[:4]


def test_sources_are_named_and_models_make_clips(tmp_path, sources):
    model = tiny_pipeline_folder(tmp_path / "tiny")
    prompts = [{"prompt": "a red circle"}, {"prompt": "a green square", "seed": 9}]
    named = [f"left={model}", f"right={model}"]
    opened = open_sources(named, prompts, ReadOptions(2, None), seed=3, options={"device": "cpu"})
    study = create_study(opened, prompts, tmp_path / "study", DesignOptions())
    assert [source.name for source in study.sources] == ["left", "right"]
    assert study.frames == 2
    assert "steps" in study.sources[0].made_by
    by_source = {}
    for clip in study.clips:
        if clip.source is not None:
            frames, _ = read_clip(tmp_path / "study" / "clips" / f"{clip.id}.mp4")
            by_source[clip.source, clip.prompt] = frames
    for prompt in (0, 1):  # all models get the same seeds
        assert np.array_equal(by_source["left", prompt], by_source["right", prompt])
    assert not np.array_equal(by_source["left", 0], by_source["left", 1])


def test_frames_rate_and_size_can_be_made_equal(tmp_path, sources):
    longer = make_folder(tmp_path / "longer", 90, frames=8, fps=2 * FPS, size=(64, 64))
    study = create(tmp_path / "study", sources["zebra"], longer, read=ReadOptions(3, FPS), resolution=32)
    assert (study.frames, study.fps, study.height, study.width) == (3, FPS, 256, 256)


def test_frames_at_uneven_times_are_remarked_on(tmp_path):
    folder = make_folder(tmp_path / "uneven", 40)
    file = folder / f"{slug(TEXTS[2])}.mp4"
    frames, _ = read_clip(file)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(
            np.repeat(frames, 2, axis=0), (0, 20, 40, 60, 300, 320, 340, 360), strict=True
        ):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with pytest.warns(UserWarning, match="uneven times") as remarks:
        (_, uneven) = Folder("a", folder, PROMPTS, ReadOptions()).read([0, 2])
    assert len(uneven.frames) == 8
    assert [str(one.message).split(":")[0] for one in remarks] == [str(file)]
    (by_times,) = Folder("a", folder, PROMPTS, ReadOptions(frames=4, fps=10)).read([2])
    # At 0, 0.1, 0.2 and 0.3 s: nearest are those at 0, 0.06, 0.3 and 0.3 s.
    for frame, place in zip(by_times.frames, (0, 1, 2, 2), strict=True):
        assert np.abs(frame.astype(int) - frames[place]).mean() < 4


def test_spoilt_clips_are_worse_and_still_to_be_seen():
    clip = np.full((4, 256, 256, 3), 30, np.uint8)
    clip[:, 96:160, 96:160] = 220
    spoilt = spoil(clip, 0).astype(int)
    assert np.array_equal(spoil(clip, 0), spoilt)
    assert np.abs(spoilt - clip).mean() > 15
    inside, outside = spoilt[:, 96:160, 96:160].mean(), spoilt[:, :64].mean()
    assert inside - outside > 80


MISTAKES = {
    "one source": (lambda s, t: [s["zebra"]], "1 sources of clips: give two or more"),
    "twice the same": (lambda s, t: [s["zebra"], s["zebra"]], "two sources are called 'zebra'; name them"),
    "no common prompts": (
        lambda s, t: [make_folder(t / "a", 9, TEXTS[:4]), make_folder(t / "b", 9, TEXTS[4:])],
        "0 of 8 prompts have a clip of every source; a study needs 2 or more (clips that belong to a prompt:"
        " a 4, b 4)",
    ),
    "other prompts": (
        lambda s, t: [s["zebra"], make_folder(t / "a", 9, ["something else"])],
        "none of its 1 clips belongs to a prompt, as something-else.mp4 does not",
    ),
    "other length": (
        lambda s, t: [s["zebra"], make_folder(t / "a", 9, frames=5)],
        "has 5 frames, {zebra}/one-red-dot-rises.mp4 has 4; clips of a study are equally long: take the",
    ),
    "other rate": (
        lambda s, t: [s["zebra"], make_folder(t / "a", 9, fps=8)],
        "has 8 frames a second, {zebra}/one-red-dot-rises.mp4 has 16; take one rate of all with --fps F",
    ),
    "other size": (
        lambda s, t: [s["zebra"], make_folder(t / "a", 9, size=(32, 64))],
        "is 64 x 32 pixels, {zebra}/one-red-dot-rises.mp4 is 48 x 32; bring all to one size with --",
    ),
    "two of a prompt": (
        lambda s, t: [
            s["zebra"],
            shutil.copy(
                make_folder(t / "a", 9) / "one-red-dot-rises.mp4", t / "a" / "one-red-dot-rises-2.mp4"
            ).parent,
        ],
        "two clips of the prompt 'one red dot rises', one-red-dot-rises-2.mp4 and one-red-dot-rises.mp4",
    ),
    "one name for two prompts": (
        lambda s, t: [s["zebra"], make_folder(t / "a", 9, ["one red dot rises"])],
        "its name fits 2 prompts, which begin with the same words",
    ),
    "too slow": (
        lambda s, t: [s["zebra"], make_folder(t / "a", 9, fps=4)],
        "has 4 frames a second, 16 are requested",
    ),
    "no such model": (lambda s, t: [s["zebra"], "nowhere/at-all/x"], "nowhere/at-all/x"),
    "empty": (lambda s, t: [s["zebra"], (t / "none", (t / "none").mkdir())[0]], "is empty of clips"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_leave_nothing_behind(mistake, sources, tmp_path):
    given, message = MISTAKES[mistake]
    named = given(sources, tmp_path)
    there = set(tmp_path.iterdir())
    prompts = (
        [*PROMPTS, {"prompt": "one red, dot: rises"}] if mistake == "one name for two prompts" else PROMPTS
    )
    read = ReadOptions(4, FPS) if mistake == "too slow" else ReadOptions()
    with pytest.raises(ValueError, match=re.escape(message.format(**sources))):
        create(tmp_path / "study", *named, prompts=prompts, read=read)
    assert set(tmp_path.iterdir()) == there


def test_damaged_clip_is_named(tmp_path, sources):
    folder = shutil.copytree(sources["zebra"], tmp_path / "damaged")
    (folder / "one-red-dot-rises.mp4").write_bytes(b"no clip at all")
    with pytest.raises(ValueError, match=r"damaged/one-red-dot-rises\.mp4"):
        create(tmp_path / "study", sources["zebra"], folder)
    assert not (tmp_path / "study").exists()


def test_prompts_belong_to_captions_whatever_shows_nothing_in_them(tmp_path):
    folder = tmp_path / "clips"
    for number, text in enumerate(("a red\u200b bar\x1a", "two  blue\xa0bars")):
        write_clip(folder / f"{number}.webp", make_clip(90, number), FPS)
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    prompts = [{"prompt": "a\tred bar"}, {"prompt": "two blue\u2028bars\ufeff"}]
    assert Folder("clips", folder, prompts, ReadOptions()).prompts == {0, 1}


def test_a_study_that_is_there_is_not_touched(study, sources, clock):
    store = StudyStore.open(study, clock)
    token = store.add_rater()
    store.consent(token)
    showing = store.current(token)
    clock.now += 1
    store.answer(token, showing.id, "quality", "left")
    store.close()
    before = (study / "study.json").read_bytes()
    with pytest.raises(ValueError, match="holds a study already, with 1 answers; name another folder"):
        create(study, *sources.values())
    assert (study / "study.json").read_bytes() == before


def test_a_folder_with_other_things_is_not_touched(tmp_path, sources):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    with pytest.raises(ValueError, match="is no empty folder"):
        create(tmp_path / "mine", *sources.values())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all my work"


def test_a_prompt_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="the prompt 'a cat' stands twice"):
        check_prompts([{"prompt": "a cat"}, {"prompt": " a  cat"}])


def test_the_same_seed_makes_the_same_study(made_study, sources, tmp_path):
    create(tmp_path / "again", *sources.values(), raters_per_pair=3, pairs_per_rater=6)
    both = [json.loads((folder / "study.json").read_text()) for folder in (made_study, tmp_path / "again")]
    for one in both:
        one.pop("created")
    assert both[0] == both[1]
