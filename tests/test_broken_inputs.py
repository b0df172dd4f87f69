"""Broken files of all other readers: what comes in is read, or refused in one line that names the file."""

import json
import random
import shutil

import numpy as np
import pytest
from pydantic import BaseModel

from damage import damaged
from latent_shift import generation, systems
from latent_shift.data.sources import make_source
from latent_shift.documents import parse_yaml, read_json_mapping, read_model
from latent_shift.io import printable
from latent_shift.media import read_settings, write_clip
from latent_shift.training import checkpoint, run_config
from latent_shift.training.recipe import load_recipe
from tiny import tiny_pipeline_folder

PROMPTS = {
    "p.txt": ("a red circle\n# no prompt\nun café à Zürich\n", ("utf-8", "utf-8-sig", "utf-16", "cp1252")),
    "p.jsonl": (
        '{"prompt": "a red circle", "seed": 3, "fps": 8.5, "output": "a.mp4"}\n{"prompt": "a bar"}\n',
        ("utf-8", "utf-16"),
    ),
}
RECIPE = """
task: autoencoder
output: runs/a
steps: 3
batch_size: 2
optimizer: {learning_rate: 0.001, warmup_steps: 1}
source: {format: moving-shapes, levels: [1]}
autoencoder: {sample_size: 64, latent_channels: 4}
"""


def named(file, read):
    """Whether a file or folder is read. Else it has to be refused by an error with its name."""
    refused = None
    try:
        read()
    except (ValueError, OSError) as error:
        refused = str(error)
    assert refused is None or file.name in refused, refused
    return refused is None


@pytest.mark.filterwarnings("ignore:.*(read as|is damaged)")
@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(tmp_path, name):
    draw, (text, encodings) = random.Random(0), PROMPTS[name]
    file, read = tmp_path / name, 0
    for encoding in encodings:
        for _ in range(150):
            file.write_bytes(damaged(text.encode(encoding), draw))
            read += named(file, lambda: generation.read_prompts(file))
    assert 0 < read < 150 * len(encodings)


def test_recipes(tmp_path):
    draw, file, read = random.Random(0), tmp_path / "recipe.yaml", 0
    for _ in range(300):
        data = damaged(RECIPE.encode(), draw)
        file.write_bytes(damaged(data, draw) if draw.random() < 0.5 else data)
        read += named(file, lambda: load_recipe(file))
    assert 0 < read < 300


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "model")


def test_model_folders(model, tmp_path):
    """Configs, tokenizer and headers; the weights themselves may be any numbers."""
    draw, folder, read = random.Random(0), shutil.copytree(model, tmp_path / "model"), 0
    files = [file for file in sorted(model.rglob("*")) if file.suffix in (".json", ".safetensors")]
    for number in range(300):
        file = files[number % len(files)]
        data = file.read_bytes()
        start = 400 if file.suffix == ".safetensors" else len(data)
        copy = folder / file.relative_to(model)
        copy.write_bytes(damaged(data[:start], draw) + data[start:])
        read += named(folder, lambda: systems.inspect(folder))
        copy.write_bytes(data)
    assert 0 < read < 300


@pytest.mark.filterwarnings("ignore:.*(is damaged|earlier release)")
def test_states_of_runs(recipe_of_a_run, tmp_path):
    """A checkpoint that is damaged anywhere is never taken for a whole one, but in blanks of its JSON."""
    folder, draw = recipe_of_a_run, random.Random(0)
    files = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    for file, data in files.items():
        for _ in range(40):
            broken = damaged(data, draw)
            file.write_bytes(broken)
            problem = checkpoint.damage(folder)
            if file.suffix == ".safetensors":
                assert (problem is None) == (broken == data)
            elif problem is None:
                assert isinstance(json.loads(broken), dict)
        file.write_bytes(data)
    assert checkpoint.damage(folder) is None


@pytest.fixture
def recipe_of_a_run(tmp_path):
    from latent_shift.training.task import build_task

    file = tmp_path / "recipe.yaml"
    channels = "block_out_channels: [8, 8, 8, 8], layers_per_block: 1, norm_num_groups: 4"
    down, up = (", ".join([name] * 4) for name in ("DownEncoderBlock2D", "UpDecoderBlock2D"))
    blocks = f"down_block_types: [{down}], up_block_types: [{up}]"
    text = RECIPE.replace("latent_channels: 4", f"latent_channels: 4, {channels}, {blocks}")
    file.write_text(text.replace("runs/a", str(tmp_path / "run")))
    recipe = load_recipe(file)
    run_config.record_recipe(recipe)
    return checkpoint.save(checkpoint.State.new(build_task(recipe)), 1)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_settings_in_clips(tmp_path, suffix):
    draw, file, read = random.Random(0), tmp_path / f"a{suffix}", 0
    write_clip(file, np.zeros((2, 16, 16, 3), np.uint8), settings={"prompt": "a bar", "seed": 7})
    data = file.read_bytes()
    for _ in range(60):
        file.write_bytes(damaged(data, draw))
        read += named(file, lambda: read_settings(file))
    assert read < 60


def test_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "rows"
    folder.mkdir()
    file = folder / "a.parquet"
    rows = {"video": ["a.mp4"] * 5, "caption": ["a bar"] * 5}
    datasets.Dataset.from_dict(rows).to_parquet(str(file))
    draw, data = random.Random(0), file.read_bytes()
    for _ in range(10):
        file.write_bytes(damaged(data, draw))
        source = make_source({"format": "huggingface", "path": str(folder)}, "rows")
        named(folder, source.read)


def test_a_parquet_that_is_not_whole_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    for name in ("a.parquet", "b.parquet"):
        datasets.Dataset.from_dict({"video": ["a.mp4"], "caption": ["x"]}).to_parquet(str(tmp_path / name))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    source = make_source({"format": "huggingface", "path": str(tmp_path)}, "rows")
    with pytest.raises(ValueError, match=r"b\.parquet: no whole parquet, .* fetch it again"):
        source.read()


class Noted(BaseModel):
    value: int


def test_what_a_program_wrote_is_named_where_it_is_damaged(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"value": 3}')
    assert read_model(Noted, file).value == 3
    for content in (b"", b'{"value": ', b"\xff", b"{}"):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"a\.json: is damaged: .*; remove it, and the same command makes"
        ):
            read_model(Noted, file)
    with pytest.raises(ValueError, match="none: cannot be read"):
        read_model(Noted, tmp_path / "none")


def test_names_cannot_command_a_terminal():
    assert printable("a\x1b[31m\n\x9b b\udce9\u00e9") == "a\\x1b[31m\\n\\x9b b\\udce9\u00e9"


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{b: " * 5000])
def test_deep_yaml_is_refused(tmp_path, text):
    file = tmp_path / "deep.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"deep\.yaml: .*nested too deeply"):
        load_recipe(file)
    with pytest.raises(ValueError, match="deep: is nested too deeply"):
        parse_yaml(text, "deep")


def test_deep_json_is_refused(tmp_path):
    file = tmp_path / "deep.json"
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json: is nested too deeply"):
        read_json_mapping(file)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_json_mapping(tmp_path)
