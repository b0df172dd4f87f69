"""Show that a system of the comparison can learn clips: train it on eight, make them, score their motions.

    python benchmarks/overfit.py latent_vdm                      # from the stills of runs/compare/compare-6
    python benchmarks/overfit.py cogvideo --steps 800 --stills runs/compare/compare-6

Its stages on clips are trained as the comparison trains them, on eight clips with their canonical captions
only. Then it makes a clip of each caption, from a seed that training has not seen, and the exact scorer reads
them. A system that does not make eight right motions has a fault, not a small budget. A sheet, real frames
and then made ones in a line, is written beside the run; the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from latent_shift.cli.progress import training_bar
from latent_shift.compare.budget import Budget
from latent_shift.compare.plan import Comparison
from latent_shift.compare.preset import default_recipes, laid_over, load_preset
from latent_shift.compare.training import train_run
from latent_shift.documents import read_yaml_mapping
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.media import contact_sheet
from latent_shift.moving_shapes.captions import caption, parse_caption
from latent_shift.moving_shapes.constants import FRAMES, SIZE
from latent_shift.moving_shapes.protocol import FRAME_STEPS
from latent_shift.moving_shapes.render import render
from latent_shift.moving_shapes.sampling import draw_scenes
from latent_shift.moving_shapes.scorer import score_clip
from latent_shift.training.distributed import Interrupted

CLIPS, SAMPLING_SEED = 8, 1000


def readable_scenes(frames: int):
    """Seed, scenes and clips (B, F, H, W, 3) of a series that the scorer reads right at so few frames."""
    for seed in range(100, 1000):
        scenes = draw_scenes(seed, range(CLIPS), level=1)
        clips = render(scenes, range(0, FRAMES, FRAME_STEPS[frames]))
        right = [motion_right(clip, scene) for clip, scene in zip(clips, scenes, strict=True)]
        if all(right) and len({scene.objects[0].motion for scene in scenes}) >= CLIPS - 2:
            return seed, scenes, clips
    raise SystemExit("no series found")


def motion_right(clip, scene) -> bool:
    """Whether a clip (F, H, W, 3) moves as a scene's caption says."""
    words, background = parse_caption(caption(scene))
    return score_clip(clip, words, background).objects[0].motion


def small_source(recipe: Path, seed: int) -> dict:
    """Changes of a stage's recipe: few clips, canonical captions, small batches."""
    content = read_yaml_mapping(recipe, "recipe")
    source = {"source": {"clips": CLIPS, "seed": seed, "paraphrases": 0.0}}
    section = next((name for name in ("latents", "tokens") if name in content), None)
    return {"batch_size": CLIPS, **(source if section is None else {section: source})}


def main() -> None:
    """Train, sample, score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system")
    parser.add_argument("--preset", default="compare-6")
    parser.add_argument("--stills", type=Path, default=Path("runs/compare/compare-6"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/compare/overfit"))
    given = parser.parse_args()
    recipes = default_recipes()
    preset = load_preset(given.preset, recipes)
    seed, scenes, real = readable_scenes(preset.frames)
    comparison = Comparison(
        preset, given.preset, preset.choose_rows([given.system]), recipes, given.output,
        seeds=1, budget=Budget("steps", given.steps), stills_from=given.stills,
    )  # fmt: skip
    stages = [one for run in comparison.runs for one in run.on_clips]
    changes = {one.stage.name: small_source(one.stage.recipe, seed) for one in stages}
    preset = preset.model_copy(update={"changes": laid_over(preset.changes, changes), "curve": ()})
    comparison = replace(comparison, preset=preset)
    comparison.check()
    for run in comparison.runs:
        try:
            train_run(comparison, run, training_bar)
        except Interrupted as stopped:
            raise SystemExit(f"{stopped}; the same command goes on") from stopped
        model = EvaluatedModel.load(str(run.model), resolution=SIZE, dtype=preset.dtype)
        seeds = range(SAMPLING_SEED, SAMPLING_SEED + CLIPS)
        made, _ = model.generate("", [caption(scene) for scene in scenes], list(seeds), preset.frames)
        right = [motion_right(clip, scene) for clip, scene in zip(made, scenes, strict=True)]
        for scene, verdict in zip(scenes, right, strict=True):
            print(f"{'right' if verdict else 'wrong'}: {caption(scene)}")
        sheet = run.folder / "sheet.png"
        both = np.concatenate([real, made], axis=1)  # in one line: real frames, then made ones
        Image.fromarray(contact_sheet(list(both), [caption(scene) for scene in scenes])).save(sheet)
        print(f"{run.row}: {sum(right)} of {CLIPS} motions after {given.steps} steps a stage; {sheet}")


if __name__ == "__main__":
    main()
