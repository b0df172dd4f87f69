"""The model card: data, settings and metrics of a trained model, and a licence to fill in.

Written beside the model as `README.md`, with the recipe as `recipe.json`: whoever gets the folder can see
what it is, and train it again.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

from latent_shift import __version__
from latent_shift.io import warn
from latent_shift.training.logging import LOG, read_jsonl
from latent_shift.training.task import Task

CARD, _KEPT = "README.md", "README.before.md"
_SEAL = "<!-- latent-shift "
_METRICS = ("loss", "clip_loss", "image_loss", "validation_loss", "psnr", "found", "items_per_second")


def write_model_card(folder: Path, task: Task) -> None:
    """Write `README.md` and `recipe.json` into the folder of a finished model."""
    content = task.recipe.model_dump(mode="json")
    (folder / "recipe.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    metrics: dict[str, float] = {}
    for line in read_jsonl(task.recipe.output / LOG):
        metrics.update(line)  # the newest value of each
    text = model_card(task, metrics)
    (folder / CARD).write_text(text + _seal(text), encoding="utf-8")


def keep_edited_card(before: Path, folder: Path) -> None:
    """Copy the card of an earlier model, where people have written into it, beside the new one.

    before, folder: of the earlier model and of the new one. Warns (UserWarning) that it did.
    """
    if not (before / CARD).is_file():
        return
    text, mark, rest = (before / CARD).read_bytes().decode("utf-8", "replace").rpartition(_SEAL)
    if text + mark + rest != text + _seal(text):
        shutil.copy2(before / CARD, folder / _KEPT)
        warn(f"{before / CARD}: was written into; it is {_KEPT} now, beside the card of the new weights")


def _seal(text: str) -> str:
    """The last line of a card, which tells whether it still is what was written."""
    return f"{_SEAL}{zlib.crc32(text.encode()):08x} -->\n"


def model_card(task: Task, metrics: dict[str, float]) -> str:
    """The page, in the Hugging Face hub's form: a head of keys, then Markdown."""
    recipe = task.recipe
    base = getattr(recipe, "pretrained_model", None)
    head = [
        "license: other  # fill in: the base model's licence and that of your data decide",
        *([f"base_model: {json.dumps(str(base))}"] if base else []),
        *([f"pipeline_tag: {task.pipeline_tag}"] if task.pipeline_tag else []),
        "tags: [latent-shift]",
    ]
    rows = [f"| {name.replace('_', ' ')} | {metrics[name]:.4g} |" for name in _METRICS if name in metrics]
    sizes = f"{recipe.batch_size}"
    if (images := getattr(recipe, "image_batch_size", None)) is not None:
        sizes += f" clips, or {images} images"
    lines = [
        "---", *head, "---", "", f"# {recipe.output.absolute().name}", "",
        f"This is {task.summary}.",
        f"Trained by latent-shift {__version__} for {recipe.steps} steps of {sizes}.",
        "", "## Data", "", *recipe.data_summary(), "",
        "## Metrics", "", "Means over the last steps of the log.", "",
        "| metric | value |", "|---|---|", *rows, "",
        "## Use", "", *task.usage, "",
        "## Licence", "", "To fill in by whoever trained it.", "",
        "## Settings", "", "All of them stand in `recipe.json`, which `latent-shift train` takes again.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
