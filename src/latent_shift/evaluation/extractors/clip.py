"""CLIP (Radford et al., arXiv 2103.00020) through transformers: image and text embeddings in one space.

For CLIPSIM and for the FID on CLIP features. The backbone changes every figure; it is named in the results
by its size, its patch and its hash. A folder in the layout of transformers is read, or a hub id is fetched;
weights as safetensors only.

Shapes: N frames or texts; 224 x 224 pixels, normalised; embeddings (N, 512) for ViT-B.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from latent_shift.evaluation.extractors import base
from latent_shift.evaluation.extractors.registry import ExtractorOptions
from latent_shift.evaluation.extractors.weights import combined_hash
from latent_shift.io import one_line
from latent_shift.model_files import tokenizer_errors

NAME, DEFAULT = "clip", "openai/clip-vit-base-patch32"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TEXT_BATCH = 64  # texts


class Clip(base.TextExtractor):
    """The image embedding of every frame, and text embeddings; as CLIP gives them, not of unit length."""

    def __init__(self, options: ExtractorOptions) -> None:
        network, self.tokenizer, digest = _load(options.clip or DEFAULT)
        vision, width = network.config.vision_config, int(network.config.projection_dim)
        backbone = (
            f"ViT {vision.hidden_size} wide, {vision.num_hidden_layers} deep, patch {vision.patch_size}"
        )
        layer = f"{backbone}, image embedding, {width} numbers a frame"
        info = base.ExtractorInfo(NAME, layer, digest, "frame", width, classifies=False)
        super().__init__(network, info, base.Preprocessing(int(vision.image_size), "bicubic", True), options)

    def run(self, pixels: Tensor) -> base.ExtractorOutput:
        """See `Extractor.run`."""
        network: Any = self.network
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        chunks = [(chunk / 255 - mean) / std for chunk in base.frame_chunks(pixels)]
        states = [network.vision_model(chunk).pooler_output for chunk in chunks]
        return base.ExtractorOutput(torch.cat([network.visual_projection(state) for state in states]), None)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return embeddings (N, D); text beyond CLIP's 77 tokens is cut off, as in everybody's CLIPSIM."""
        network: Any = self.network
        length = int(network.config.text_config.max_position_embeddings)
        embeddings = []
        for start in range(0, len(captions), _TEXT_BATCH):
            tokens = self.tokenizer(
                list(captions[start : start + _TEXT_BATCH]),
                padding="max_length", truncation=True, max_length=length, return_tensors="pt",
            ).to(self.device)  # fmt: skip
            states = network.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            embeddings.append(network.text_projection(states.pooler_output))
        return torch.cat(embeddings).float()


def _load(name: str) -> tuple[Any, Any, str]:
    """Load a network, its tokenizer and hash. Raises ValueError where they are nowhere."""
    from transformers import CLIPModel, CLIPTokenizer

    try:
        network, found = CLIPModel.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        with tokenizer_errors(name):
            tokenizer = CLIPTokenizer.from_pretrained(name)
        digest = combined_hash(_weight_files(name))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            "clip needs a model in the layout of transformers (config.json, model.safetensors, tokenizer):"
            f" {name} is neither such a folder nor a hub id that could be fetched; get {DEFAULT} from the"
            f" Hugging Face hub and name its folder with --clip ({one_line(error)[:200]})"
        ) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(f"{name}: lacks {len(missing)} of CLIP's weights, the first {missing[0]}")
    return network, tokenizer, digest


def _weight_files(name: str) -> list[Path]:
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors"], local_files_only=True))
    return sorted(folder.glob("*.safetensors"))
