"""Files count as what they hold, not as what they are called."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips import write_video
from latent_shift.checkpoints.lora import check_loras
from latent_shift.checkpoints.single_file import detect_layout
from latent_shift.data.check import inspect
from latent_shift.data.sources import detect_source
from latent_shift.evaluation.clip_files import ClipReadOptions, list_clips, scan_folder
from latent_shift.evaluation.extractors.weights import read_tensors
from latent_shift.generation import read_prompts
from latent_shift.media import kind_of, kind_of_file


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_moves_is_a_clip_whatever_picture_it_is_called():
    Path("clips").mkdir()
    images = [Image.new("RGB", (64, 48), (40 * number, 0, 0)) for number in range(4)]
    for name, moving in {"a.jpg": "a.webp", "b.bmp": "b.gif", "c.png": "c.webp"}.items():
        images[0].save(moving, save_all=True, append_images=images[1:], duration=125)
        os.replace(moving, f"clips/{name}")
    Path("clips/e").mkdir()
    profile = np.random.default_rng(0).bytes(1 << 17)  # before the mark of a moving PNG
    more = {"save_all": True, "append_images": images[1:], "duration": 125, "icc_profile": profile}
    images[0].save("clips/e/e.png", **more)
    with open("clips/c.png", "ab") as padded:  # more than is read of its beginning
        padded.write(b"junk" + (1 << 17).to_bytes(4, "little") + bytes(1 << 17))
    os.replace(write_video(Path("d.mp4"), count=4), "clips/d.jpeg")
    images[1].save("clips/still.jpg")
    for file in list(Path("clips").rglob("*.*")):
        file.with_suffix(".txt").write_text("a thing")
    names = ["a.jpg", "b.bmp", "c.png", "d.jpeg", "e.png"]
    assert [path.name for path in list_clips(Path("clips"))] == names
    scan = scan_folder(Path("clips"), ClipReadOptions(frames=4))
    assert [path.name for path in scan.clips] == names
    assert scan.remarks == ["1 files that hold no clip were left alone: .jpg"]
    manifest = detect_source("clips").read()
    assert [record.kind for record in manifest.records] == ["clip"] * 5 + ["image"]
    assert inspect(manifest).bad == []


def test_a_photograph_in_heic_is_no_clip_whatever_it_is_called():
    for name in ("a.jpg", "a.png"):
        Path(name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
        assert kind_of_file(Path(name)) == "image"
        assert kind_of(name, lambda count: b"") == "image"


def test_json_lines_in_a_table_of_another_name_are_read():
    write_video(Path("a.mp4"), count=4)
    Path("t.csv").write_text(json.dumps({"path": "a.mp4", "caption": "a, b"}) + "\n")
    (record,) = detect_source("t.csv").read().records
    assert record.captions == ("a, b",)
    Path("t.csv").write_text('[{"path": "a.mp4", "caption": "a"}]')
    with pytest.raises(ValueError, match=r"t\.csv: no line is a JSON object"):
        detect_source("t.csv").read()


def test_a_folder_of_tars_in_capitals_says_how_to_name_them():
    Path("tars").mkdir()
    Path("tars/X.TAR").touch()
    with pytest.raises(ValueError, match=r"a folder of tars; name them, as in 'tars/\*\.TAR'"):
        detect_source("tars")


def test_json_in_a_text_of_prompts_is_not_painted():
    file = Path("prompts.txt")
    file.write_text('# {"prompt": "x"}\n{red|blue} circle\n{a}\n')
    assert [values["prompt"] for values in read_prompts(file)] == ["{red|blue} circle", "{a}"]
    file.write_text('a red circle\n{"prompt": "a blue circle"}\n')
    with pytest.raises(ValueError, match=r"prompts\.txt line 2: is a JSON object: name the file prompts\.j"):
        read_prompts(file)


def test_published_clips_are_found_with_any_suffix():
    for name in ("a/b.MP4", "ms/video0.webm", "ucf/Archery/v_Archery_g01_c01.mp4", "ms/video1.mp4"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_bytes(b"x")
    Path("w.csv").write_text("videoid,page_dir,name\nb,a,a bar\nc,a,none\n")
    Path("list.txt").write_text("Archery/v_Archery_g01_c01.avi 1\n")
    videos = [{"video_id": f"video{number}"} for number in range(2)]
    sentences = [video | {"caption": "a bar"} for video in videos]
    Path("ms.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    webvid = detect_source("w.csv", "webvid", videos="./").read()
    ucf = detect_source("ucf", "ucf101", split_file="list.txt").read()
    msrvtt = detect_source("ms.json", videos="ms").read()
    files = [str(record.file) for manifest in (webvid, ucf, msrvtt) for record in manifest.records]
    assert files == ["a/b.MP4", "ucf/Archery/v_Archery_g01_c01.mp4", "ms/video0.webm", "ms/video1.mp4"]
    assert [problem.where for problem in webvid.problems] == ["a/c"]


def test_suffixes_of_weights_in_capitals():
    Path("a.SAFETENSORS").write_bytes(b"PK" + bytes(99))
    for check in (detect_layout, lambda file: check_loras([str(file)]), read_tensors):
        with pytest.raises(ValueError, match=r"a\.SAFETENSORS: (?!.*pickle)"):
            check(Path("a.SAFETENSORS"))
