"""From finished runs to a model in the package: half precision, with what belongs to it.

    python recipes/export_model.py MODEL --autoencoder VAE -o TARGET [--video-encoder FOLDER] [--card FILE]

MODEL is a folder in the Stable Diffusion layout. The autoencoder may have another decoder than the model's
own, and must have its encoder. TARGET is replaced as a whole. Changes no weight but its precision.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import VivitModel

from latent_shift.autoencoder import encoder_hash
from latent_shift.pipeline import LatentShiftPipeline


def export(
    model: Path,
    autoencoder: Path,
    target: Path,
    *,
    video_encoder: Path | None = None,
    card: Path | None = None,
) -> int:
    """Write the model into `target` and return its size in bytes.

    Args:
        model: folder of the trained model.
        autoencoder: folder of the autoencoder that takes the place of the model's own.
        target: folder that is replaced.
        video_encoder: folder of the encoder of clips that scores them, to lie beside the model.
        card: the model card, in place of the one that training wrote.

    Raises:
        ValueError: where a folder is missing, and where the autoencoder gives other latents than the model
            was trained on.
    """
    for path in (model, autoencoder, video_encoder, card):
        if path is not None and not path.exists():
            raise ValueError(f"{path} is missing: run the stage that makes it first")
    own, given = (AutoencoderKL.from_pretrained(folder) for folder in (model / "vae", autoencoder))
    if encoder_hash(own) != encoder_hash(given):
        raise ValueError(f"{autoencoder} has another encoder than the autoencoder of {model}")
    partial, old = target.with_name(target.name + ".unfinished"), target.with_name(target.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = LatentShiftPipeline.from_pretrained(str(model), torch_dtype=torch.float16)
    pipeline.register_modules(vae=given.half())
    if (fast := getattr(pipeline.tokenizer, "backend_tokenizer", None)) is not None:
        fast.no_truncation()  # as training has set them, and no caller reads them
        fast.no_padding()
    pipeline.save_pretrained(partial)
    if video_encoder is not None:
        encoder = VivitModel.from_pretrained(video_encoder, dtype=torch.float16, add_pooling_layer=False)
        encoder.save_pretrained(partial / "clip_tower")
    if card is not None:
        shutil.copyfile(card, partial / "README.md")
    for folder in (model, target):  # prompts that the server's page shows
        if (folder / "examples.txt").is_file():
            shutil.copy(folder / "examples.txt", partial)
            break
    _make_public(partial)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())


def _make_public(folder: Path) -> None:
    """Make all files readable for everyone, and remove the paths of the machine that made them."""
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Export, and print the size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--video-encoder", type=Path)
    parser.add_argument("--card", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        size = export(
            given.model, given.autoencoder, given.output, video_encoder=given.video_encoder, card=given.card
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f"{given.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
