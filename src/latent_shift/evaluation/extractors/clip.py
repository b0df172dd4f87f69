"""CLIP (Radford et al., arXiv 2103.00020) through transformers: image and text embeddings in one space.

For CLIPSIM and for the FID on CLIP features. The backbone changes every figure; it is named in the results
by its size, its patch and its hash. A folder in the layout of transformers is read, or a hub id is fetched;
weights as safetensors alone.

Shapes: N frames or texts; 224 x 224 pixels, normalised; embeddings (N, 512) for ViT-B.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_shift.evaluation.extractors.interface import Extracted, Facts, TextExtractor, frames_in_parts
from latent_shift.evaluation.extractors.published import joined_digest
from latent_shift.evaluation.extractors.resizing import View

NAME, DEFAULT = "clip", "openai/clip-vit-base-patch32"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_AT_ONCE = 64  # texts


class Clip(TextExtractor):
    """The image embedding of every frame, and text embeddings; as CLIP gives them, not of unit length."""

    def __init__(
        self, name: str | Path, view: View | None = None, device: torch.device | str = "cpu"
    ) -> None:
        network, self.tokenizer, digest = _load(str(name))
        vision, width = network.config.vision_config, int(network.config.projection_dim)
        backbone = (
            f"ViT {vision.hidden_size} wide, {vision.num_hidden_layers} deep, patch {vision.patch_size}"
        )
        facts = Facts(NAME, f"{backbone}, image embedding, {width} numbers a frame", digest, "frame", width)
        super().__init__(network, facts, view or View(int(vision.image_size), "bicubic", True), device)

    def run(self, pixels: Tensor) -> Extracted:
        """See `Extractor.run`."""
        mean, deviation = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, DEVIATION)
        )
        parts = [self.embed((part / 255 - mean) / deviation, "vision") for part in frames_in_parts(pixels)]
        return Extracted(torch.cat(parts), None)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """(N, D); what is beyond CLIP's 77 tokens is cut off, as everybody's CLIPSIM does."""
        parts = []
        for start in range(0, len(captions), _AT_ONCE):
            given = list(captions[start : start + _AT_ONCE])
            tokens = self.tokenizer(
                given, padding="max_length", truncation=True, max_length=self._length(), return_tensors="pt"
            )
            parts.append(self.embed(tokens.to(self.device), "text"))
        return torch.cat(parts).float()

    def embed(self, given: Any, side: str) -> Tensor:
        """The projected embedding of pixels ("vision") or tokens ("text")."""
        network: Any = self.network
        if side == "vision":
            projected: Tensor = network.visual_projection(network.vision_model(given).pooler_output)
        else:
            states = network.text_model(input_ids=given.input_ids, attention_mask=given.attention_mask)
            projected = network.text_projection(states.pooler_output)
        return projected

    def _length(self) -> int:
        network: Any = self.network
        return int(network.config.text_config.max_position_embeddings)


def _load(name: str) -> tuple[Any, Any, str]:
    """The network, its tokenizer and hash. Raises ValueError where they are nowhere."""
    from transformers import CLIPModel, CLIPTokenizer

    try:
        network: nn.Module = CLIPModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(name)
        digest = joined_digest(_weight_files(name))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            "clip needs a model in the layout of transformers (config.json, model.safetensors, tokenizer):"
            f" {name} is neither such a folder nor a hub id that could be fetched; get {DEFAULT} from the"
            f" Hugging Face hub and name its folder with --clip ({reason})"
        ) from error
    return network, tokenizer, digest


def _weight_files(name: str) -> list[Path]:
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors"], local_files_only=True))
    return sorted(folder.glob("*.safetensors"))
