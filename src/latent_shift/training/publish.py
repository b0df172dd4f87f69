"""From a finished run to a model to give away: half precision, the clip tower beside it, replaced as a whole.

Not training: it changes no weight but its precision. Used by `make default-model`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import VivitModel

from latent_shift.autoencoder import encoder_hash
from latent_shift.pipeline import LatentShiftPipeline


def publish(model: Path, autoencoder: Path, clip_tower: Path, target: Path) -> int:
    """Write `model` in half precision with `clip_tower/` into `target`, replacing what is there.

    model: a folder in the Stable Diffusion layout. autoencoder: the one to give with it, whose decoder may be
    another than the model's own. clip_tower: a folder with a transformers `VivitModel`.
    Returns the size of the result in bytes. Raises ValueError where a folder is missing, and where the
    autoencoder makes other latents than the model was trained on.
    """
    for folder in (model, autoencoder, clip_tower):
        if not folder.is_dir():
            raise ValueError(f"{folder} is missing: train it first (make default-model)")
    own, given = (AutoencoderKL.from_pretrained(folder) for folder in (model / "vae", autoencoder))
    if encoder_hash(own) != encoder_hash(given):
        raise ValueError(f"{autoencoder} encodes otherwise than the autoencoder of {model}")
    partial, old = target.with_name(target.name + ".unfinished"), target.with_name(target.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = LatentShiftPipeline.from_pretrained(str(model), torch_dtype=torch.float16)
    pipeline.register_modules(vae=given.half())
    pipeline.save_pretrained(partial)
    VivitModel.from_pretrained(clip_tower, dtype=torch.float16, add_pooling_layer=False).save_pretrained(
        partial / "clip_tower"
    )
    _make_public(partial)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())


def _make_public(folder: Path) -> None:
    """Readable for all, and free of where the model lay on the machine that made it."""
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
