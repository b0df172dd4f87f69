"""Scores of the emoji model against its training: of each checkpoint that a stage kept, a table and a plot.

    python recipes/emoji/curve.py runs/emoji/3-image runs/emoji/4-video-thirds runs/emoji/4-video

Of stages that are finished, in their order; a recipe keeps as many checkpoints as `checkpoints_total_limit`
says. Scores averaged weights on prompts of the cells names and composed-seen, as `latent-shift evaluate
emoji` does, with as many frames as the stage has: images of the former only. Writes curve.json and
curve.png into the last run's folder; stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import torch
from diffusers import UNet2DConditionModel
from matplotlib import pyplot
from safetensors.torch import load_file

from latent_shift.emoji.eyes import Eyes
from latent_shift.emoji.pack import Pack
from latent_shift.emoji.protocol import CellClips, EmojiScores, EmojiTruth
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.metrics.base import MetricOptions
from latent_shift.hashes import short_hash
from latent_shift.io import atomic_file, write_json
from latent_shift.training.checkpoint import checkpoints, step_of

BATCH = 16


@torch.no_grad()
def averaged_model(run: Path, checkpoint: Path, target: Path) -> None:
    """Write the model of a run with the averaged weights of a checkpoint."""
    shutil.copytree(run / "model", target)
    unet = UNet2DConditionModel.from_pretrained(target, subfolder="unet")
    averages = load_file(checkpoint / "ema.safetensors")
    for number, weights in enumerate(unet.parameters()):
        weights.copy_(averages[str(number)])
    unet.save_pretrained(target / "unet")


def scored(run: Path, checkpoint: Path, truth: EmojiTruth, eyes: Eyes, prompts: int) -> dict[str, float]:
    """Shares of right names, and of right motions where the model makes clips."""
    with tempfile.TemporaryDirectory() as folder:
        averaged_model(run, checkpoint, Path(folder) / "model")
        model = EvaluatedModel.load(str(Path(folder) / "model"), resolution=truth.pack.size)
    frames = model.system.info().defaults.frames
    found = {}
    for cell in ("names", "composed-seen")[: 1 + (frames > 1)]:
        clips = CellClips(cell, cell, truth, prompts=prompts, batch_size=BATCH, model=model, frames=frames)
        judge = EmojiScores(truth, eyes, MetricOptions())
        for batch in clips.batches():
            judge.update(batch)
        for measure in ("name top 1", "motion"):
            if verdicts := judge.verdicts.get(measure):
                found[f"{cell}, {measure}"] = sum(verdicts) / prompts
    return found


def frames_of_step(recipe: dict[str, Any]) -> float:
    """Frames that a step trains on, the mean over batches of clips and of images of a source of their own."""
    clips = recipe["batch_size"]
    if recipe["task"] == "image":
        return clips
    frames = clips * len(range(0, 16, recipe["latents"]["frame_stride"]))
    if recipe["latents"].get("images") is None:
        return frames
    share = recipe["image_batch_ratio"]
    return (1 - share) * frames + share * (recipe.get("image_batch_size") or clips)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Scores over the frames that were trained on, the stages one after the other."""
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    for name in dict.fromkeys(key for row in rows for key in row["scores"]):
        points = [(row["frames"] / 1e6, 100 * row["scores"][name]) for row in rows if name in row["scores"]]
        axes.plot(*zip(*points, strict=True), ".-", label=name)
    ends = {row["run"]: row["frames"] / 1e6 for row in rows}
    for run, end in ends.items():
        axes.axvline(end, color="0.8", zorder=0)
        axes.annotate(run, (end, 2), rotation=90, ha="right", fontsize=7, color="0.4")
    axes.set(xlabel="million frames trained on", ylabel="right, %", ylim=(0, 101), xlim=(0, None))
    figure.legend(fontsize=8, loc="outside upper center", ncols=3)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def main() -> None:
    """Score, print, plot; a mistake ends it in one line."""
    try:
        curve()
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"curve.py: error: {error}") from error


def curve() -> None:
    """Score, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--pack", type=Path, default=Path("runs/emoji/pack.safetensors"))
    parser.add_argument("--eyes", type=Path, default=Path("runs/emoji/eyes.safetensors"))
    parser.add_argument("--prompts", type=int, default=96, help="of each cell")
    parser.add_argument("--every", type=int, default=1, help="score each n-th checkpoint, and the last")
    given = parser.parse_args()
    if given.every < 1 or given.prompts < 1:
        parser.error("--every and --prompts: give 1 or more")
    truth, eyes = EmojiTruth(Pack.open(given.pack)), Eyes.load(given.eyes)
    table = given.runs[-1] / "curve.json"
    rows: list[dict[str, Any]] = []
    judged = {"prompts": given.prompts, "pack": truth.pack.digest, "eyes": eyes.digest}
    before, kept = 0.0, dict[str, dict[str, float]]()
    if table.is_file():
        former = json.loads(table.read_text())
        if judged.items() <= former.items():
            kept = {row["weights"]: row["scores"] for row in former["checkpoints"]}
    for run in given.runs:
        recipe = json.loads((run / "recipe.json").read_text())
        for checkpoint in checkpoints(run)[:: -given.every][::-1]:
            step = step_of(checkpoint)
            weights = short_hash(checkpoint / "ema.safetensors")
            found = kept.get(weights) or scored(run, checkpoint, truth, eyes, given.prompts)
            seen = before + step * frames_of_step(recipe)
            row = {"run": run.name, "step": step, "frames": round(seen), "weights": weights, "scores": found}
            rows.append(row)
            write_json(table, {**judged, "checkpoints": rows})
            print(run.name, step, *(f"{key} {100 * value:.1f} %" for key, value in found.items()), flush=True)
        before += recipe["steps"] * frames_of_step(recipe)
    plot(rows, table.with_suffix(".png"))


if __name__ == "__main__":
    main()
