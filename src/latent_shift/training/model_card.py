"""The page that goes with a trained model: its data, settings and figures, and the licence to fill in.

Written beside the model as `README.md`, with the recipe as `recipe.json`: whoever gets the folder can tell
what it is, and train it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latent_shift import __version__
from latent_shift.training.log import FILE_NAME as LOG
from latent_shift.training.recipe import Run, VideoRecipe

_TASKS = {
    "wording": "a text model",
    "contrast": "a clip model",
    "autoencoder": "an image autoencoder",
    "image": "a text-to-image model",
    "video": "a text-to-video model: a text-to-image model with the temporal shift (arXiv 2304.08477)",
}
_FIGURES = ("loss", "clip_loss", "image_loss", "validation_loss", "psnr", "found", "items_per_second")


def write_card(folder: Path, recipe: Run) -> None:
    """Write `README.md` and `recipe.json` into the folder of a finished model."""
    content = recipe.model_dump(mode="json")
    (folder / "recipe.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(recipe, content, _last_figures(recipe)), encoding="utf-8")


def card(recipe: Run, content: dict[str, Any], figures: dict[str, float]) -> str:
    """The page, in the Hugging Face hub's form: a head of keys, then Markdown."""
    base = content.get("base")
    head = [
        "license: other  # fill in: the base model's licence and that of your data decide",
        *([f"base_model: {json.dumps(base)}"] if base else []),
        *(["pipeline_tag: text-to-video"] if isinstance(recipe, VideoRecipe) else []),
        "tags: [latent-shift]",
    ]
    measured = [f"| {name.replace('_', ' ')} | {figures[name]:.4g} |" for name in _FIGURES if name in figures]
    lines = [
        "---", *head, "---", "", f"# {recipe.output.name}", "",
        f"This is {_TASKS[content['task']]}.",
        f"Trained by latent-shift {__version__} for {recipe.steps} steps of {recipe.batch_size}.",
        "", "## Data", "", *_data(content), "",
        "## Figures", "", "Means over the last steps of the log.", "",
        "| figure | value |", "|---|---|", *measured, "",
        "## Use", "", *_use(recipe), "",
        "## Licence", "", "To fill in by whoever trained it.", "",
        "## Settings", "", "All of them stand in `recipe.json`, which `latent-shift train` takes again.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _data(content: dict[str, Any]) -> list[str]:
    if content.get("clips"):
        return ["Clips of your own:", "", "```json", json.dumps(content["clips"], indent=2), "```"]
    if content.get("wordings"):
        return [f"The sentences of `{content['wordings']}`."]
    world = content.get("world") or content["latents"]["world"]
    return [f"The generated world Moving Shapes, levels {world['levels']}, seed {world['seed']}."]


def _use(recipe: Run) -> list[str]:
    if not isinstance(recipe, VideoRecipe):
        return ["A part of a model, or a stage before its clips."]
    command = 'latent-shift generate "..." --model THIS-FOLDER -o clip.mp4'
    return ["```sh", command, "```", "", "Stock diffusers opens the folder as well, for images."]


def _last_figures(recipe: Run) -> dict[str, float]:
    """The newest value of each figure of the log."""
    path, found = recipe.output / LOG, dict[str, float]()
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            found.update(json.loads(line))
    return found
