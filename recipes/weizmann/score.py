"""Do the clips show the action that their prompt names? Told by a small classifier, trained on real clips.

    python recipes/weizmann/score.py [--model runs/weizmann/5-video/model] [--clips runs/weizmann/clips]
        [--count 25] [-o runs/weizmann/score]

Prints, and writes as JSON, the share that is recognised: of windows of real clips of people kept aside, and
of `--count` generated clips an action; and a sheet of generated clips beside real ones. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from latent_shift.checkpoints import load
from latent_shift.data.sources import detect_source
from latent_shift.data.video_dataset import ClipSettings, VideoDataset
from latent_shift.media import contact_sheet, write_image

SEEN = ClipSettings(num_frames=16, fps=12.5, height=64, width=64)
WORDINGS = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text())
STEPS, BATCH = 400, 24


class Classifier(nn.Sequential):
    """Logits (B, 4) of clips as `seen_by` gives them: three convolutions in space and time, then the mean."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(2, 16, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(16), nn.ReLU(),
            nn.Conv3d(16, 32, 3, stride=2, padding=1), nn.BatchNorm3d(32), nn.ReLU(),
            nn.Conv3d(32, 64, 3, stride=2, padding=1), nn.BatchNorm3d(64), nn.ReLU(),
            nn.AdaptiveAvgPool3d((2, 2, 2)), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, len(WORDINGS)),
        )  # fmt: skip


def seen_by(clips: Tensor) -> Tensor:
    """(B, 2, 16, 32, 32) of clips uint8 (B, 16, 64, 64, 3): gray without its mean, and how it changes."""
    gray = clips.float().mean(dim=-1) / 255  # (B, F, H, W)
    small = nn.functional.avg_pool2d(gray, 2)
    still = small - small.mean(dim=(1, 2, 3), keepdim=True)
    return torch.stack([still, torch.diff(small, dim=1, prepend=small[:, :1]) * 3], dim=1)


def action_of(caption: str) -> int:
    """The number of the action that a sentence names."""
    return next(number for number, sentences in enumerate(WORDINGS) if caption in sentences)


def windows(videos: VideoDataset, visits: range) -> tuple[Tensor, Tensor]:
    """Clips (B, 16, 64, 64, 3) and their actions (B,)."""
    items = [videos[visit] for visit in visits]
    actions = torch.tensor([action_of(item["caption"]) for item in items])
    return torch.stack([item["frames"] for item in items]), actions


def train(videos: VideoDataset) -> Classifier:
    """A classifier of the windows of real clips, half of them mirrored, half of them blurred.

    Blurred, since an autoencoder's clips are softer than real ones, and that is not what is judged.
    """
    torch.manual_seed(0)
    model, order = Classifier(), torch.Generator().manual_seed(0)
    clips, actions = windows(videos, range(20 * len(videos)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(clips), (BATCH,), generator=order)
        batch = seen_by(clips[chosen])
        mirrored = torch.rand(BATCH, generator=order) < 0.5
        batch = torch.where(mirrored[:, None, None, None, None], batch.flip(-1), batch)
        blurred = torch.rand(BATCH, generator=order) < 0.5
        soft = nn.functional.avg_pool3d(batch, (1, 3, 3), stride=1, padding=(0, 1, 1))
        batch = torch.where(blurred[:, None, None, None, None], soft, batch)
        shifted = torch.roll(batch, tuple(torch.randint(-3, 4, (2,), generator=order).tolist()), (-2, -1))
        loss = nn.functional.cross_entropy(model(shifted), actions[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def recognised(model: Classifier, clips: Tensor, actions: Tensor) -> dict[str, float]:
    """The share of each action that is recognised, and of all."""
    right = (model(seen_by(clips)).argmax(dim=1) == actions).float()
    each = {WORDINGS[number][0]: right[actions == number].mean().item() for number in range(len(WORDINGS))}
    return {**each, "all": right.mean().item()}


def generated(folder: str, count: int) -> tuple[Tensor, Tensor]:
    """`count` clips of each action, each from a seed of its own."""
    pipeline = load(folder, device="auto", dtype="auto")
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for number, (prompt, *_) in enumerate(WORDINGS):
        for start in range(0, count, 8):
            seeds = range(1000 * number + start, 1000 * number + min(start + 8, count))
            dice = [torch.Generator().manual_seed(seed) for seed in seeds]
            clips.append(pipeline([prompt] * len(dice), generator=dice, output_type="np").frames)
    frames = torch.from_numpy((np.concatenate(clips) * 255).round().astype(np.uint8))
    return frames, torch.arange(len(WORDINGS)).repeat_interleave(count)


def main() -> None:
    """Train the classifier, score, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="runs/weizmann/5-video/model")
    parser.add_argument("--clips", type=Path, default=Path("runs/weizmann/clips"))
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/weizmann/score"))
    given = parser.parse_args()
    real = {
        part: VideoDataset(detect_source(str(given.clips / part)).read(), SEEN, seed=1)
        for part in ("train", "aside")
    }
    model = train(real["train"])
    aside = windows(real["aside"], range(12 * len(real["aside"])))
    scores = {"real clips of people kept aside": recognised(model, *aside)}
    if Path(given.model).is_dir():
        clips, actions = generated(given.model, given.count)
        scores["generated clips"] = recognised(model, clips, actions)
        rows, titles = [], []
        for number, (prompt, *_) in enumerate(WORDINGS):
            rows += [aside[0][aside[1] == number][0].numpy(), *clips[actions == number][:2].numpy()]
            titles += [f"real: {prompt}", f"generated: {prompt}", f"generated: {prompt}"]
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write_image(given.output.with_suffix(".png"), contact_sheet(rows, titles), overwrite=True)
    text = json.dumps(scores, indent=2)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.with_suffix(".json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
