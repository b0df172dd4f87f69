"""Making the pack: what is drawn, what is left out and counted, what ends the run; cutting the word table."""

import csv
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from latent_shift.emoji.pack import EmojiClip, Pack
from latent_shift.emoji.splits import Splits
from latent_shift.training.text_encoder import load_text_encoder
from tiny_text import tiny_bert

RECIPES = Path(__file__).parents[2] / "recipes" / "emoji"


def load(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its processes look for their work
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare():
    return load("prepare")


def webp(path, frames=6):
    """A red square that moves right, 24 frames a second."""
    images = []
    for number in range(frames):
        pixels = np.zeros((64, 64, 4), np.uint8)
        pixels[16:48, 8 * number % 32 : 8 * number % 32 + 32] = (220, 30, 30, 255)
        images.append(Image.fromarray(pixels))
    images[0].save(path, save_all=True, append_images=images[1:], duration=125, lossless=True, kmin=0, kmax=1)
    return path


def lottie(path, **changes):
    """A blue square that grows, one second long."""
    colour = {"ty": "fl", "c": {"k": [0.1, 0.2, 0.9, 1]}, "o": {"k": 100}}
    rectangle = {"ty": "rc", "p": {"k": [0, 0]}, "s": {"k": [60, 60]}, "r": {"k": 0}}
    place = {
        "ty": "tr",
        "p": {"k": [0, 0]},
        "a": {"k": [0, 0]},
        "s": {"k": [100, 100]},
        "r": {"k": 0},
        "o": {"k": 100},
    }
    growth = {
        "a": 1,
        "k": [
            {"t": 0, "s": [50, 50], "i": {"x": 1, "y": 1}, "o": {"x": 0, "y": 0}},
            {"t": 60, "s": [100, 100]},
        ],
    }
    layer = {
        "ty": 4, "ip": 0, "op": 60, "st": 0, "shapes": [{"ty": "gr", "it": [rectangle, colour, place]}],
        "ks": {"p": {"k": [50, 50]}, "a": {"k": [0, 0]}, "s": growth, "r": {"k": 0}, "o": {"k": 100}},
    }  # fmt: skip
    content = {"v": "5.5.2", "fr": 60, "ip": 0, "op": 60, "w": 100, "h": 100, "layers": [layer], **changes}
    path.write_text(json.dumps(content))
    return path


def test_animations_are_drawn_over_one_loop(prepare, tmp_path):
    frames = prepare.draw_webp(webp(tmp_path / "a.webp"), 32, 8)
    assert frames.shape == (6, 32, 32, 4)
    assert [int(np.nonzero(frame[16, :, 3])[0][0]) for frame in frames] == [0, 4, 8, 12, 0, 4]
    assert (frames[0, 16, 8] == (220, 30, 30, 255)).all()
    frames = prepare.draw_lottie(lottie(tmp_path / "b.json"), 50, 8)
    assert frames.shape == (8, 50, 50, 4)
    widths = [int((frame[25, :, 3] > 127).sum()) for frame in frames]
    assert widths == sorted(widths)
    assert 14 <= widths[0] <= 16
    assert widths[-1] > 26
    assert frames[0, 25, 25, 2] > 200 > 60 > frames[0, 25, 25, 0]  # blue, not red


def test_a_still_is_drawn_and_centred(prepare):
    rectangle = '<rect width="20" height="10" fill="#f00"/>'
    body = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10">{rectangle}</svg>'
    (frame,) = prepare.draw_svg(body, 32)
    assert (frame[16, 16] == (255, 0, 0, 255)).all()
    assert frame[1, 16, 3] == frame[-2, 16, 3] == 0


def test_broken_files_are_named_left_out_and_counted(prepare, tmp_path):
    broken = {
        "cut.webp": webp(tmp_path / "whole.webp").read_bytes()[:200],
        "text.webp": b"not a picture",
        "empty.webp": b"",
        "no.json": b"{",
        "layers.json": json.dumps({"w": 1}).encode(),
        "short.json": lottie(tmp_path / "x.json", op=0).read_bytes(),
        "nothing.json": lottie(tmp_path / "y.json", layers=[]).read_bytes(),
        "layers-of-text.json": lottie(tmp_path / "z.json", layers="none").read_bytes(),
    }
    drawings = []
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        drawings.append((name, tmp_path / name))
    drawings += [("good", webp(tmp_path / "good.webp")), ("missing", tmp_path / "missing.webp")]
    clips = [
        prepare.Drawing(
            EmojiClip("fluent", name, name, "", "", (), "MIT", still=False), f"fluent {name}", file
        )
        for name, file in drawings
    ]
    lines = prepare.render(clips, tmp_path / "out", size=32, fps=8, digest="d", workers=1)
    pack = Pack.open(tmp_path / "out" / "pack.safetensors")
    assert [clip.name for clip in pack.clips] == ["good"]
    assert len(lines) == len(broken) + 1
    for name in (*broken, "missing"):
        assert sum(line.startswith(f"fluent {name}: left out: ") for line in lines) == 1


def test_a_stopped_drawing_goes_on(prepare, tmp_path):
    one = prepare.Drawing(
        EmojiClip("fluent", "a", "a", "", "", (), "MIT", still=False), "a", webp(tmp_path / "a.webp")
    )
    options = {"size": 16, "fps": 8, "digest": "d", "workers": 1}
    prepare.render([one], tmp_path, **options)
    (tmp_path / "pack.safetensors").unlink()
    (tmp_path / "a.webp").unlink()  # what is drawn is not drawn again
    assert prepare.render([one], tmp_path, **options) == []
    assert len(Pack.open(tmp_path / "pack.safetensors")) == 1


def test_names_and_keywords_of_stills(prepare, tmp_path):
    icons = {
        "prefix": "x", "width": 10, "height": 10,
        "icons": {
            name: {"body": "<g/>"} for name in ("grinning-face", "waving-hand-medium-skin-tone", "odd")
        },
        "aliases": {"smile": {"parent": "grinning-face"}, "turned": {"parent": "odd", "hFlip": True}},
    }  # fmt: skip
    characters = {
        "1f600": "grinning-face",
        "1f44b-1f3fd": "waving-hand-medium-skin-tone",
        "2603-fe0f": "odd",
        "1f700": "turned",
    }
    with tarfile.open(tmp_path / "icons.tgz", "w:gz") as tar:
        for name, content in (("icons", icons), ("chars", characters)):
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}.json")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    rows = [{"code": "1f44b", "name": "waving hand", "tone": "", "group": "People", "keywords": "hello|bye"}]
    found = [one.clip for one in prepare.stills([(tmp_path / "icons.tgz", "noto", "Apache")], rows)]
    assert [(clip.code, clip.name, clip.tone, clip.keywords) for clip in found] == [
        ("1f600", "grinning face", "", ()),
        ("1f44b-1f3fd", "waving hand", "medium", ("hello", "bye")),
        ("2603", "odd", "", ()),
    ]
    assert found[1].emoji == "1f44b"


def test_a_download_that_is_missing_or_differs_is_one_line(prepare, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    one = prepare.Download("@x/emoji", "1.0.0", "x-emoji-1.0.0.tgz", "abc")
    line = prepare.problem_of(one, tmp_path)
    assert line == (
        f"{tmp_path}/x-emoji-1.0.0.tgz: is missing and could not be fetched; fetch it: npm pack"
        f" @x/emoji@1.0.0 --pack-destination {tmp_path}"
    )
    (tmp_path / one.file).write_bytes(b"another")
    assert prepare.problem_of(one, tmp_path).startswith(
        f"{tmp_path / one.file}: is not @x/emoji 1.0.0: its hash differs"
    )
    right = prepare.Download("x", "1", one.file, hashlib.sha256(b"another").hexdigest(), pypi=True)
    assert prepare.problem_of(right, tmp_path) is None
    assert "is missing; it comes from quarrel/noto" in prepare.problem_of_listed(
        tmp_path, "noto-lottie.tar.xz"
    )
    (tmp_path / "emoji.csv").write_text("style\n")
    assert "its hash differs" in prepare.problem_of_listed(tmp_path, "emoji.csv")


def test_the_run_ends_before_any_work_and_names_all_that_is_missing(prepare, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", ["prepare.py", "-o", str(tmp_path / "out"), "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 4 + 3 + 1 + 2
    assert not (tmp_path / "out" / "pack.safetensors").exists()


def test_a_smaller_world_is_drawn_of_a_list_of_names(prepare, tmp_path):
    clips = [
        EmojiClip("fluent", "1f680", "rocket", "", "", (), "", still=False),
        EmojiClip("fluent", "1f44b", "waving hand", "", "", (), "", still=False),
        EmojiClip("fluent", "1f44b-1f3fd", "waving hand", "medium", "", (), "", still=False),
        EmojiClip("noto", "1f680", "rocket", "", "", (), "", still=True),
    ]
    rows = [{"code": clip.code, "name": clip.name, "tone": clip.tone} for clip in clips]
    drawings = [prepare.Drawing(clip, "") for clip in clips]
    names = tmp_path / "names.txt"
    names.write_text("rocket\n\n")
    assert [one.clip for one in prepare.only(drawings, names, rows)] == [clips[0], clips[3]]
    names.write_text("rocket\nwaving hand\n")
    assert [one.clip.tone for one in prepare.only(drawings, names, rows)] == ["", "", ""]
    names.write_text("rocket\nrokcet\n")
    with pytest.raises(ValueError, match="no emoji of emoji.csv is called 'rokcet'"):
        prepare.only(drawings, names, rows)
    with pytest.raises(ValueError, match="cannot be read"):
        prepare.only(drawings, tmp_path / "none.txt", rows)


def test_the_popular_names_are_drawn_in_a_style_that_may_be_trained_on():
    data = Path(__file__).parents[3] / "shared" / "data" / "emoji" / "emoji.csv"
    if not data.exists():
        pytest.skip(f"needs {data}")
    rows = list(csv.DictReader(data.open(encoding="utf-8", newline="")))
    clips, listed = [], {}
    for row in rows:
        clips.append(
            EmojiClip(*(row[key] for key in ("style", "code", "name", "tone", "group")), (), "", still=False)
        )
        if not row["tone"]:
            listed.setdefault(row["code"], []).append(row["style"])
    known = {one.name: one for one in Splits(clips, listed).emoji.values()}
    names = (RECIPES / "popular.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(names) == len(set(names)) == 48
    assert all(known[name].left_out != "fluent" and "fluent" in listed[known[name].code] for name in names)


def test_the_word_table_is_cut_and_states_stay(tmp_path):
    recipe = load("text_encoder")
    parts = tiny_bert(length=48)
    for part in parts.values():
        part.save_pretrained(tmp_path / "source")
    count = recipe.cut(tmp_path / "source", tmp_path / "cut", ["a rocket"], common=3)
    tokenizer, encoder = load_text_encoder(tmp_path / "cut")
    assert len(tokenizer) == count < len(parts["tokenizer"])
    whole = AutoTokenizer.from_pretrained(tmp_path / "source")
    before = parts["text_encoder"](
        **{k: v for k, v in whole("a rocket", return_tensors="pt").items() if k != "token_type_ids"}
    )
    after = encoder.eval()(tokenizer("a rocket", return_tensors="pt").input_ids)
    assert torch.allclose(before.last_hidden_state, after.last_hidden_state, atol=1e-6)
    # "square" was cut out: pieces, and no error
    assert whole.tokenize("square") == ["square"]
    assert len(tokenizer.tokenize("square")) == 6
    assert tokenizer.unk_token not in tokenizer.tokenize("square")
    assert tokenizer.model_max_length == recipe.LENGTH
    assert encoder.config.use_attention_mask
