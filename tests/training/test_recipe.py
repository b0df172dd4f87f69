"""Recipes are strict: what is wrong is told by file and key, before any work is done."""

import json
import re
from math import inf
from pathlib import Path

import pytest
import yaml

from latent_shift.data.sources.base import GeneratedSource
from latent_shift.documents import parse_yaml
from latent_shift.training.recipe import load_recipe
from tiny_emoji import tiny_pack

FILES = set((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
FILES -= set((Path(__file__).parents[2] / "recipes" / "compare" / "presets").iterdir())  # of another kind
PRESETS = sorted(path for path in FILES if path.parent.name == "presets")
RECIPES = sorted(path for path in FILES - set(PRESETS) if "task:" in path.read_text())

OWN_CLIPS = {"latents": None, "clips": {"source": {"format": "folder", "path": "clips"}, "frames": {}}}


@pytest.fixture
def with_pack(tmp_path):
    """Changes of a recipe of emoji: a tiny pack in place of the one that recipes/emoji/prepare.py makes."""

    def settings(path):
        content = yaml.safe_load(path.read_text())
        source = content.get("source", content.get("latents", {}).get("source", {}))
        if source.get("format") != "emoji":
            return []
        key = "source" if "source" in content else "latents.source"
        return [f"{key}.pack={tiny_pack(tmp_path / 'pack.safetensors')}"]

    return settings


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_this_repository_are_valid(path, with_pack):
    assert load_recipe(path, with_pack(path)).steps > 0


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_the_presets_of_this_repository_fit_their_recipes(preset, with_pack):
    named = list(yaml.safe_load(preset.read_text()))
    for name in named:
        recipe = preset.parents[1] / f"{name}.yaml"
        settings = with_pack(recipe)
        assert load_recipe(recipe, settings, preset=preset) != load_recipe(recipe, settings)
    assert set(named) <= {path.stem for path in RECIPES if path.parent == preset.parents[1]}


@pytest.mark.parametrize(
    ("task", "changes", "key"),
    [
        ("autoencoder", {"stepz": 3}, "stepz: unknown key"),
        (
            "autoencoder",
            {"optimizer": {"learning_rate": 0.1, "momentum": 1}},
            "optimizer.momentum: unknown key; remove it",
        ),
        (
            "video",
            {"optimizer": {"learning_rte": 0.1}},
            r"optimizer.learning_rte: unknown key; did you mean learning_rate\? \(and 1 more\)",
        ),
        ("video", {"optimizer": {}}, "optimizer.learning_rate: is missing"),
        (
            "video",
            {"latents": None, "clips": {"source": {"format": "tabel"}, "frames": {}}},
            "clips.source: format 'tabel': expected one of folder, table",
        ),
        (
            "video",
            {"latents": None, "clips": {"source": {}, "frames": {}}},
            "clips.source: format is missing: one of folder, table",
        ),
        (
            "video",
            {
                "latents": None,
                "clips": {"source": {"format": "folder", "path": "x"}, "frames": {"height": 99999}},
            },
            "clips.frames.height: Input should be less than or equal to 4096, got '99999'",
        ),
        ("autoencoder", {"steps": "many"}, "steps: Input should be a valid integer"),
        ("autoencoder", {"steps": 0}, "steps: .* greater than or equal to 1"),
        ("autoencoder", {"autoencoder": {"norm_groups": 4}}, "autoencoder: AutoencoderKL has no norm_groups"),
        ("autoencoder", {"autoencoder": 4}, "autoencoder: Input should be a valid dictionary"),
        ("autoencoder", {"crop": 20}, "crop 20 is no multiple of the autoencoder's scale, 8"),
        ("autoencoder", {"freeze_encoder": True}, "freeze_encoder needs init_from"),
        ("autoencoder", {"latent_noise": 0.5}, "latent_noise: only with freeze_encoder"),
        (
            "text_contrastive",
            {"text_encoder": {"vocab_size": 4}},
            "text_encoder: CLIPTextConfig has no vocab_size",
        ),
        (
            "video_text_contrastive",
            {"source": {"format": "moving-shapes", "levels": []}},
            "source.levels: Tuple should have at least 1 item",
        ),
        ("image", {"scheduler": {"betas": 4}}, "scheduler: DDIMScheduler has no betas"),
        (
            "image",
            {"latents": {"folder": "x", "source": {"format": "moving-shapes"}}},
            "latents: source.clips is 10000000; say how many",
        ),
        (
            "video",
            {"experimental": {"oversample_words": ["gray"]}},
            "experimental: oversample_words and oversample_ratio go together",
        ),
        (
            "video",
            {"shift": {"place": "middle"}},
            "shift: place='middle' is unknown: choose one of output, input",
        ),
        (
            "video",
            {"experimental": {"timestep_range": [0.9, 0.4]}},
            r"experimental: timestep_range \[0.9, 0.4\]: the first",
        ),
        (
            "video",
            {"diffusion": {}, "experimental": {"noise_candidates": 8}},
            "experimental.noise_candidates selects shared noise",
        ),
        (
            "video",
            {"experimental": {"oversample_motions": ["dancing"], "oversample_motions_ratio": 0.5}},
            "experimental: oversample_motions has 'dancing'; the motions are",
        ),
        (
            "image",
            {**OWN_CLIPS, "experimental": {"oversample_words": ["a"], "oversample_ratio": 1}},
            "experimental.oversample_words is .*: it is for latents",
        ),
        ("video", {"shift": {"strides": [3, 1]}}, "shift.strides is experimental: set experimental.shift_s"),
        (
            "video",
            {"shift": None, "experimental": {"shift_strides": [2]}},
            "experimental.shift_strides: th",
        ),
        ("video", {"shift": {"distance": 1}}, "shift.distance: unknown key"),
        ("text_contrastive", {"validation": {}}, "gradient_accumulation_steps and validation: not for task"),
        ("video", {"image_batch_ratio": 1.5}, "image_batch_ratio: .* less than or equal to 1"),
        (
            "video",
            {"optimizer": {"learning_rate": 1, "cooldown_steps": 9}},
            ".* cooldown_steps 9 exceed steps 6",
        ),
    ],
)
def test_a_mistake_is_told_by_file_and_key(recipe_file, task, changes, key):
    path = recipe_file(task, **changes)
    with pytest.raises(ValueError, match=f"{path}: {key}"):
        load_recipe(path)


def test_what_is_no_recipe_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    with pytest.raises(ValueError, match="cannot read recipe .*recipe.yaml"):
        load_recipe(path)
    for content, error in (
        ("- 1", "must be a mapping"),
        ("a: [", "cannot read recipe"),
        ("steps: 1", "task: is missing"),
        ("task: text", "task 'text': expected one of text_contrastive"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=error):
            load_recipe(path)


def test_a_preset_lies_between_the_file_and_the_settings(recipe_file, tmp_path):
    preset = tmp_path / "large.yaml"
    preset.write_text("video: {steps: 8, batch_size: 8, shift: {place: input}}\nimage: {steps: 7}")
    changed = load_recipe(recipe_file("video", shift={"fold": 4}), ["steps=9"], preset)
    assert (changed.steps, changed.batch_size) == (9, 8)
    assert (changed.shift.place, changed.shift.fold) == ("input", 4)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("image: {steps: 7}", "preset .*large.yaml has no settings for video; it has some for image"),
        ("video: {steps: {a: 1}}", "preset .*large.yaml: video: 'steps' is a value, not a group"),
        ("video: {stepz: 1}", "recipe .*video.yaml with preset .*large.yaml: stepz: unknown key"),
        ("[", "cannot read preset .*large.yaml"),
        ("3", "preset .*large.yaml must be a mapping"),
    ],
)
def test_a_wrong_preset_is_told(recipe_file, tmp_path, content, error):
    preset = tmp_path / "large.yaml"
    preset.write_text(content)
    with pytest.raises(ValueError, match=error):
        load_recipe(recipe_file("video"), preset=preset)


def test_settings_are_laid_over_the_file(recipe_file):
    changed = load_recipe(
        recipe_file("video"), ["steps=9", "shift.place=input", "optimizer.betas=[0.5, 0.6]"]
    )
    assert (changed.steps, changed.shift.place, changed.optimizer.betas) == (9, "input", (0.5, 0.6))
    assert changed.optimizer.learning_rate == 0.003


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("steps", "must look like key=value"),
        ("=3", "must look like key=value"),
        ("a..b=3", "must look like key=value"),
        ("steps.more=3", "'steps' is a value, not a group"),
        ("steps=[", "no YAML value"),
        ("stepz=3", "stepz: unknown key"),
        ("stepz=[a] b", "stepz: unknown key"),
        ("optimizer={learning_rate: 1e-4", "setting 'optimizer=.* has no YAML value: while parsing"),
        ("mixed_precision=[fp", "has no YAML value"),
    ],
)
def test_a_wrong_setting_is_told(recipe_file, setting, error):
    with pytest.raises(ValueError, match=error):
        load_recipe(recipe_file("video"), [setting])


def test_a_source_without_what_is_tried_is_refused(recipe, monkeypatch):
    tiny = recipe("video", experimental={"oversample_motions": ["bouncing"], "oversample_motions_ratio": 0.5})
    assert tiny.source.oversample_motions == ("bouncing",)
    assert tiny.latents.source.oversample_motions == ()

    class PlainSource(GeneratedSource):
        format: str = "plain"

    PlainSource.__abstractmethods__ = frozenset()  # none is called here
    plain = PlainSource(seed=0, clips=4)
    other = tiny.model_copy(update={"latents": tiny.latents.model_copy(update={"source": plain})})
    with pytest.raises(ValueError, match="experimental.oversample_motions: sources of format plain do not"):
        _ = other.source


@pytest.mark.parametrize(
    "name",
    [
        "2026-11-28",
        "no",
        "on",
        "12",
        "1e3",
        "0o7",
        "1:30",
        "run #2",
        "~/runs",
        "a: b",
        "[a]",
        "-",
        "5.0",
        "@x",
        "!x",
        "*y",
        "&z",
        "`x",
        "%a",
        "<<",
        "=x",
        "#1",
        "[2024] holidays",
        "{final} clips",
        "'90s clips",
        '"best" clips',
        "[draft",
        "new: [x",
    ],
)
def test_a_setting_of_a_text_or_path_keeps_what_was_typed(recipe_file, name):
    path = recipe_file("autoencoder")
    assert load_recipe(path, [f"output={name}"]).output == Path(name)
    video = recipe_file("video")
    loaded = load_recipe(video, [f"pretrained_model={name}", f"latents.folder={name}", "steps=9 # enough"])
    assert (loaded.pretrained_model, loaded.latents.folder, loaded.steps) == (name, Path(name), 9)


@pytest.mark.parametrize("text", ["'a b'", '"a b"', "a b", " a b "])
def test_quotation_marks_about_a_setting_are_those_of_yaml(recipe_file, text):
    assert load_recipe(recipe_file("autoencoder"), [f"output={text}"]).output == Path("a b")


@pytest.mark.parametrize(
    ("text", "found"),
    [("8:30", "8:30"), ("1:30.5", "1:30.5"), ("010", "010"), ("0b1", "0b1"), ("1_000", 1000), ("0x10", 16)]
    + [("-5", -5), ("+5", 5), ("0", 0), (".5", 0.5), ("1.5e3", 1500.0), ("-.inf", -inf), ("1.", 1.0)],
)
def test_numbers_are_decimal_ones(text, found):
    """YAML 1.1 reads 8:30 as 510, and 010 as 8."""
    value = parse_yaml(f"a: {text}", "here")["a"]
    assert (value, type(value)) == (found, type(found))


def test_keys_are_texts_whatever_they_are_in_yaml():
    """They are names, as of classes of clips, or none of ours."""
    text = "No: a\non: b\n1: c\n1.10: d\n2026-11-28: e\n~: f\nbase: &x {yes: 1}\nmore: {<<: *x, off: 2}\n"
    found = parse_yaml(text, "here")
    assert list(found) == ["No", "on", "1", "1.10", "2026-11-28", "~", "base", "more"]
    assert found["more"] == {"yes": 1, "off": 2}


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "False"])
def test_words_that_yaml_takes_for_true_or_false_are_no_numbers(recipe_file, word):
    for setting in (f"seed={word}", f"sample_every={word}", f"optimizer.betas=[{word}, 0.9]"):
        with pytest.raises(ValueError, match=r"(seed|sample_every|betas): expected a number, got (Tr|Fa)"):
            load_recipe(recipe_file("autoencoder"), [setting])
    assert load_recipe(recipe_file("autoencoder"), [f"compile={word}"]).compile in (True, False)


def test_a_section_replaces_what_was_typed_for_a_key_in_it(recipe_file):
    section = "latents={folder: no, source: {format: moving-shapes, clips: 4}}"
    with pytest.raises(ValueError, match=r"latents.folder: .* got 'False'; put it in quotation marks"):
        load_recipe(recipe_file("video"), ["latents.folder=first", section])
    loaded = load_recipe(recipe_file("video"), [section, "latents.folder=no"])
    assert loaded.latents.folder == Path("no")


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null"])
def test_a_path_that_is_empty_says_so(recipe_file, nothing):
    with pytest.raises(ValueError, match=r"output: is empty \(null in YAML\); expected a text"):
        load_recipe(recipe_file("autoencoder"), [f"output={nothing}"])


def test_a_path_of_the_users_folder_is_there(recipe_file, monkeypatch):
    """No shell sees the ~ of a file."""
    monkeypatch.setenv("HOME", "/home/me")
    path = recipe_file("video", output="~/runs/a", clips={"a": ["~/b"]}, latents=None)
    assert str(load_recipe(path, [f"clips={OWN_CLIPS['clips']}"]).output) == "/home/me/runs/a"
    assert str(load_recipe(recipe_file("video", output="a~/b")).output) == "a~/b"
    block = recipe_file("video")
    block.write_text(re.sub("output: .*", "output: |\n  runs/b", block.read_text()))
    assert str(load_recipe(block).output) == "runs/b"  # without the newline that ends a block


def test_folders_that_cannot_be_made_are_told_before_any_model_is_loaded(recipe_file, tmp_path):
    (tmp_path / "file").touch()
    for key in ("output", "latents.folder"):
        with pytest.raises(ValueError, match=rf"^{key}: {tmp_path}/file: is a file, and no folder"):
            load_recipe(recipe_file("video"), [f"{key}={tmp_path}/file/a"]).check()


def test_a_name_that_is_no_text_is_refused(recipe_file):
    with pytest.raises(ValueError, match=r"^setting 'output=caf.udce9': is not UTF-8; rename"):
        load_recipe(recipe_file("video"), ["output=caf\udce9"])


@pytest.mark.parametrize("address", ["s3://bucket/run", "file:///tmp/run", "hf://me/run"])
def test_an_address_is_no_folder_of_a_run(recipe_file, address):
    with pytest.raises(ValueError, match=f"output: {address}: is an address; name a file of this"):
        load_recipe(recipe_file("video"), [f"output={address}"])


def test_the_record_of_a_run_is_a_recipe_whatever_its_names(recipe_file, tmp_path):
    content = load_recipe(recipe_file("video", output="\U0001f600")).model_dump(mode="json")
    (tmp_path / "recipe.json").write_text(json.dumps(content))  # two halves of a surrogate, as no YAML has
    assert str(load_recipe(tmp_path / "recipe.json").output) == "\U0001f600"


def test_a_number_of_another_base_is_no_setting(recipe_file):
    assert load_recipe(recipe_file("autoencoder"), ["steps=010"]).steps == 10
    for setting in (
        "steps=8:30",
        "steps=0b1",
        "optimizer.learning_rate=.inf",
        "optimizer.learning_rate=1e400",
    ):
        with pytest.raises(ValueError, match="(steps|learning_rate): Input should be a (valid|finite)"):
            load_recipe(recipe_file("autoencoder"), [setting])
    with pytest.raises(ValueError, match="has no YAML value"):
        load_recipe(recipe_file("autoencoder"), ["steps=" + "[" * 5000])


def test_a_task_or_key_in_the_wrong_place(recipe_file):
    path = recipe_file("autoencoder")
    for task in ("!!set {a}", "[a]"):
        path.write_text(re.sub("task: .*", f"task: {task}", path.read_text()))
        with pytest.raises(ValueError, match="task .*: expected one of"):
            load_recipe(path)
    with pytest.raises(ValueError, match="kind: unknown key; it is a key of another section"):
        load_recipe(recipe_file("autoencoder"), ["kind=adamw"])


def test_a_date_in_a_file_says_what_helps(recipe_file):
    path = recipe_file("autoencoder")
    path.write_text(re.sub("output: .*", "output: 2026-11-28", path.read_text()))
    with pytest.raises(ValueError, match=r"output: .*got '2026-11-28'; put it in quotation marks"):
        load_recipe(path)
    with pytest.raises(ValueError, match="steps: Input should be a valid integer"):
        load_recipe(recipe_file("autoencoder"), ["steps=2026-11-28"])


def test_a_key_that_stands_twice_is_refused(recipe_file):
    path = recipe_file("autoencoder")
    path.write_text(path.read_text() + "\nseed: 3\nseed: 4\n")
    with pytest.raises(ValueError, match=f"cannot read recipe {path}: the key 'seed' stands twice"):
        load_recipe(path)


def test_words_in_a_list_that_yaml_reads_otherwise_are_named(recipe_file):
    with pytest.raises(ValueError, match=r"trainable_modules.1: .*, got 'False'; put it in quotation marks"):
        load_recipe(recipe_file("video"), ["trainable_modules=[resnets, no]"])
    with pytest.raises(ValueError, match=r"trainable_modules: expected a list, as \[a, b\], got 'resnets'"):
        load_recipe(recipe_file("video"), ["trainable_modules=resnets"])
