"""`latent-shift generate` with models and LoRA files of one's own: what the clips say of them."""

import json

import pytest
from safetensors.torch import save_file
from torch import linspace, ones

from latent_shift import media
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.hashes import short_hash
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def program(*arguments):
        capsys.readouterr()
        status = errors.run(app, ["generate", "a circle", "--seed", "1", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return program


@pytest.fixture
def lora(tmp_path):
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    file = tmp_path / "style.safetensors"
    # The layer reads what LayerNorm gives, of mean 0: equal weights would see nothing but rounding errors.
    save_file(
        {
            key.format("A"): linspace(-3, 3, 24)[None],
            key.format("B"): linspace(3, -3, 24)[:, None].contiguous(),
        },
        file,
    )
    return file


def test_loras_are_named_in_the_clips(run, model, lora):
    given = ("--lora", "style.safetensors:0.5", "--lora", lora)
    status, out, err = run("--model", model, *given, "-o", "styled.webp", "--json")
    assert (status, err) == (0, [])
    named = {"file": "style.safetensors", "sha256": short_hash(lora)}
    expected = [{**named, "weight": 0.5}, {**named, "weight": 1.0}]
    assert json.loads(out[0])["loras"] == media.read_settings("styled.webp")["loras"] == expected
    assert run("--model", model, "-o", "plain.webp")[0] == 0
    assert "loras" not in media.read_settings("plain.webp")
    assert (media.read_clip("plain.webp")[0] != media.read_clip("styled.webp")[0]).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.safetensors", "none.safetensors: there is no such file"),
        ("other.safetensors:2", "2 of its 2 keys fit nothing in this model: unet.nosuch.lora_A.weight"),
    ],
)
def test_mistakes_are_one_line(run, model, tmp_path, given, message):
    tensors = {f"unet.nosuch.lora_{side}.weight": ones(1, 1) for side in "AB"}
    save_file(tensors, tmp_path / "other.safetensors")
    status, out, err = run("--model", model, "--lora", given)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert not (tmp_path / "out").exists()
