"""docs/data.md: its files are created, its sources read, its clips decoded."""

import io
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clips import numbers, write_video
from latent_shift.data.sources import SOURCES as FORMATS
from latent_shift.data.sources import Source, read_source
from latent_shift.media import open_clip

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
SOURCES = [name for kind, name, text in BLOCKS if kind == "yaml" and text.startswith("format:")]

CAPTIONS = {
    "folder.yaml": {
        "jump.mp4": ("a child jumps over a puddle", "somebody small jumps, and it splashes"),
        "park/dog.mov": ("a brown dog runs through a park",),
        "still.jpg": ("a bench under a tree",),
    },
    "table.yaml": {
        "films/street.mp4": ("cars pass, and a cyclist",),
        "films/beach.mp4@0.5-3": ("waves roll in", "water and foam"),
        "films/beach.mp4@1-": ("a gull lands",),
    },
    "jsonl.yaml": {"street.mp4": ("cars pass", "a cyclist passes"), "beach.mp4": ("waves roll in",)},
    "msrvtt.yaml": {"video0": ("a car is shown", "a red car drives")},
    "ucf101.yaml": {
        "PlayingGuitar/v_PlayingGuitar_g08_c01.avi": (
            "a person plays the guitar",
            "somebody with a guitar",
        ),
        "YoYo/v_YoYo_g08_c01.avi": ("a person plays with a yo-yo",),
    },
    "webvid.yaml": {"000001_000050/1066674877": ("Clouds move over a lake",)},
    "huggingface.yaml": {"rows/saved row 0": ("a clip in a row",)},
    "shards.yaml": {
        "shards/train-0000.tar/00000": ("rain on a window", "it rains"),
        "shards/train-0000.tar/00001": ("a window",),
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with everything that the page shows."""
    folder = tmp_path_factory.mktemp("page")
    clip = write_video(folder / "any.mp4", count=32, fps=8).read_bytes()
    image = io.BytesIO()
    Image.new("RGB", (40, 30), "green").save(image, format="JPEG")

    def media(name):
        return image.getvalue() if name.endswith(".jpg") else clip

    for kind, name, text in BLOCKS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "files":
            for file in text.split():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(media(file))
        elif kind == "tar":
            with tarfile.open(path, "w") as tar:
                for line in text.splitlines():
                    file, _, content = line.partition(" ")
                    data = content.encode() or media(file)
                    member = tarfile.TarInfo(file)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        elif name:
            path.write_text(text, encoding="utf-8")
    return folder


def test_the_page_shows_every_format():
    assert {read.split(":")[1].split()[0] for kind, _, read in BLOCKS if read.startswith("format:")} == {
        name for name in FORMATS.names() if issubclass(FORMATS[name], Source)
    }
    assert set(SOURCES) == set(CAPTIONS)


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_of_the_page_is_read(made, name, monkeypatch):
    monkeypatch.chdir(made)
    if name == "huggingface.yaml":
        pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
        exec(next(text for kind, _, text in BLOCKS if kind == "python"), {})
    manifest = read_source(Path(name)).read()
    assert {record.key: record.captions for record in manifest.records} == CAPTIONS[name]
    assert manifest.problems == ()
    for record in manifest.records:
        with open_clip(record.file.open()) as clip:
            assert clip.facts.kind == record.kind
            if record.kind == "clip":
                assert numbers(clip.frames([1.0])) == [8]
