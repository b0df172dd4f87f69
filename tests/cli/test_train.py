"""`latent-shift train` from outside: what it prints, refuses and leaves behind."""

import json

import pytest
import yaml

from latent_shift.cli import errors
from latent_shift.cli.main import app

RECIPE = {
    "task": "autoencoder",
    "output": "run",
    "source": {"format": "moving-shapes"},
    "autoencoder": {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
    },
    "crop": 16,
    "steps": 2,
    "batch_size": 2,
    "mixed_precision": "fp32",
    "log_every": 1,
    "sample_every": 2,
    "optimizer": {"learning_rate": 0.001, "warmup_steps": 0},
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the program beside recipe.yaml; gives (status, standard output, standard error), both in lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    def program(*arguments):
        capsys.readouterr()
        status = errors.run(app, list(arguments))
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return program


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_it_prints_the_model_and_tells_its_steps(run, tmp_path):
    status, out, err = run("train", "recipe.yaml")
    assert (status, out) == (0, ["run/model"])
    assert [line.split("  ")[:2] for line in err] == [["training", "1/2"], ["training", "2/2"]]
    made = [name for name in everything_in(tmp_path / "run") if not name.startswith("tensorboard/")]
    assert made == [
        ".lock",  # held by a process while it trains
        "checkpoints/step-00000002/ema.safetensors",
        "checkpoints/step-00000002/optimizer.safetensors",
        "checkpoints/step-00000002/state.json",
        "checkpoints/step-00000002/weights.safetensors",
        "log.jsonl",
        "model/README.md",
        "model/recipe.json",
        "model/vae/config.json",
        "model/vae/diffusion_pytorch_model.safetensors",
        "recipe.json",
        "samples/step-00000002.png",
    ]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_a_dry_run_prints_the_whole_recipe_and_writes_nothing(run, tmp_path):
    status, out, err = run("train", "recipe.yaml", "--set", "optimizer.learning_rate=0.5", "--dry-run")
    recipe = json.loads("\n".join(out))
    assert (status, err) == (0, [])
    assert (recipe["optimizer"]["learning_rate"], recipe["ema_decay"]) == (0.5, 0.999)
    assert everything_in(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["none.yaml"], "cannot read recipe none.yaml"),
        (["recipe.yaml", "--set", "stepz=3"], "recipe recipe.yaml: stepz: unknown key; did you mean steps?"),
        (["recipe.yaml", "--set", "stepz=3", "--dry-run"], "recipe recipe.yaml: stepz: unknown key"),
        (
            ["recipe.yaml", "--set", "init_from=none"],
            "init_from: none has no vae/: train the stage before it",
        ),
        (["recipe.yaml", "--set", "optimizer.learning_rate=1e30"], "the loss or its gradient was not finite"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, error):
    status, out, err = run("train", *arguments)
    errors = [line for line in err if not line.startswith("training  ")]
    assert (status, out, len(errors)) == (2, [], 1)
    assert errors[0].startswith(f"latent-shift: error: {error}")


@pytest.mark.slow
def test_changed_settings_are_refused_and_the_run_stays(run, tmp_path):
    run("train", "recipe.yaml")
    before = everything_in(tmp_path)
    status, out, err = run("train", "recipe.yaml", "--set", "seed=7", "--set", "steps=3")
    assert (status, out) == (2, [])
    assert err[-1].startswith("latent-shift: error: run was begun with other settings: seed was 0, is 7.")
    assert everything_in(tmp_path) == before
