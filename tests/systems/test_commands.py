"""train, generate and evaluate with the folders of systems that have stages of their own."""

import json
from pathlib import Path

import pytest

from latent_shift import media, systems
from latent_shift.systems import SYSTEMS
from latent_shift.systems.tasks import TASKS as OF_SYSTEMS
from latent_shift.training.tasks import TASKS
from program import run_program


@pytest.mark.slow
@pytest.mark.parametrize("system", ["latent_vdm", "motion_module"])
def test_from_a_recipe_to_scores(recipe, tmp_path, capsys, system):
    recipe(system)
    assert run_program(capsys, "train", tmp_path / f"{system}.yaml", "--set", "steps=2")[0] == 0
    model, clip, scores = (tmp_path / name for name in (f"{system}/model", "clip.webp", "scores.json"))
    card = (model / "README.md").read_text()
    assert "a text-to-video model: a" in card
    assert 'latent-shift generate "..." --model' in card
    sampled = ("--model", model, "--frames", 6, "--steps", 2)
    euler = ("--scheduler", "euler")
    status, _, said = run_program(
        capsys, "generate", "a red circle", "--seed", 1, "-o", clip, *sampled, *euler
    )
    assert (status, said) == (0, "")
    frames, _ = media.read_clip(clip)
    assert frames.shape == (6, 64, 64, 3)
    some = ("--subsets", "level-1-seen", "--prompts", 2, "--batch", 2, "-o", scores)
    status, _, said = run_program(capsys, "evaluate", "moving-shapes", *sampled, *some)
    assert status == 0, said
    assert json.loads(scores.read_text())


def test_a_system_and_its_tasks_are_named_in_their_room_only():
    root = Path(systems.__file__).parents[1]
    others = [
        file.relative_to(root).as_posix()
        for file in root.rglob("*.py")
        if root / "systems" not in file.parents
        and any(f"systems.{name}" in file.read_text(encoding="utf-8") for name in SYSTEMS.names())
    ]
    assert others == ["benchmark/networks.py"]  # whose subject is the layers of some
    found = {name for name in TASKS.names() if TASKS[name].__module__.startswith("latent_shift.systems.")}
    assert found == set(OF_SYSTEMS)
