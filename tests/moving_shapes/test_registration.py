"""The package adds itself to general code through entry points; general code never imports it by name."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latent_shift.emoji.dataset import EmojiWorld
from latent_shift.moving_shapes import WorldConfig
from latent_shift.moving_shapes.protocol import MovingShapesScores
from latent_shift.moving_shapes.scorer.features import Encoders, ScorerFeatures, frame_encoders
from latent_shift.registry import Registry

ADDED = {
    "latent_shift.sources": {"moving-shapes": WorldConfig, "emoji": EmojiWorld},
    "latent_shift.extractors": {
        "moving-shapes": Encoders,
        "moving-shapes-frames": frame_encoders,
        "moving-shapes-eyes": ScorerFeatures,
    },
    "latent_shift.metrics": {"moving-shapes": MovingShapesScores},
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The entry points as an installation of this project has them."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    groups = tomllib.loads(text)["project"]["entry-points"]
    folder = tmp_path / "latent_shift-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: latent-shift\nVersion: 0\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    return groups


def test_registries_list_it(installed):
    assert set(installed) == set(ADDED)
    for group, added in ADDED.items():
        registry = Registry("name", group, {"own": "module:attribute"})
        assert set(registry.names()) == {"own", *added}
        assert {name: registry[name] for name in added} == added


@pytest.mark.slow
def test_general_code_does_not_import_it():
    rooms = "cli.main, data.sources, training.recipe, evaluation.extractors, evaluation.metrics"
    imports = "; ".join(f"import latent_shift.{room}" for room in rooms.split(", "))
    check = (
        "import sys; print([name for name in sys.modules if name.startswith('latent_shift.moving_shapes')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; {check}"], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
