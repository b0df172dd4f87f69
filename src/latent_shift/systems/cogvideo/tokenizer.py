"""The frame tokenizer: diffusers' `VQModel` with a quantizer that keeps its codes in use.

Encoder and decoder are `VQModel`'s. Its own quantizer weighs the wrong term of the commitment loss and lets
codes die, so another takes its place: a codebook that follows the encoder (k-means start, moving averages,
dead codes replaced; arXiv 1711.00937), or finite scalar quantization, which has no state (FSQ, arXiv
2309.15505). The folder stays one that stock `VQModel` opens: the codes are copied into its own codebook.

Shapes: N frames of H x W pixels, C latent channels, h x w tokens, K codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers import VQModel
from pydantic import BeforeValidator, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latent_shift.autoencoder import to_model_range, to_uint8
from latent_shift.documents import read_json_mapping
from latent_shift.io import write_json
from latent_shift.model_weights import check_weights
from latent_shift.training.recipe import Count, Strict

FOLDER = "frame_tokenizer"  # in a model's folder
STATE_FILE, _SETTINGS = "quantizer.safetensors", "quantizer.json"
CHUNK = 64  # frames encoded or decoded together


class QuantizerConfig(Strict):
    """The quantizer; all keys but kind and levels are those of vq."""

    kind: Literal["vq", "fsq"] = Field("vq", description="vq: learned codes; fsq: a fixed grid")
    codebook_size: Count = Field(1024, description="codes")
    decay: float = Field(0.99, ge=0.0, lt=1.0, description="of the codes' moving averages")
    commitment_weight: float = Field(0.25, ge=0.0, description="pull of the encoder toward the codes")
    threshold_ema_dead_code: float = Field(
        2.0, ge=0.0, description="codes that fewer latents a step choose, on average, are replaced"
    )
    levels: tuple[Count, ...] = Field((8, 5, 5, 5), min_length=1, description="of each channel; fsq only")


def _by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Quantizer = Annotated[QuantizerConfig, BeforeValidator(_by_kind)]  # "fsq" is {kind: fsq}


class FrameTokenizer(nn.Module):
    """Frames to tokens, and tokens to frames.

    The state of the codebook is in buffers; they change in training mode, by `quantize` only.
    """

    def __init__(self, autoencoder: dict[str, Any], config: QuantizerConfig) -> None:
        """autoencoder: arguments of `VQModel`, without its codebook's (num_vq_embeddings, vq_embed_dim)."""
        super().__init__()
        self.config = config
        self.quantizer = _new_quantizer(config, int(autoencoder.get("latent_channels", 3)))
        codes = self.codes
        self.vq = VQModel(**autoencoder, num_vq_embeddings=codes.shape[0], vq_embed_dim=codes.shape[1])
        self.vq.quantize.requires_grad_(False)  # only there for stock tools

    @property
    def codes(self) -> Tensor:
        """All codes (K, C)."""
        codes: Tensor = (
            self.quantizer.codebook if self.config.kind == "vq" else self.quantizer.implicit_codebook
        )
        return codes

    @property
    def scale(self) -> int:
        """Pixels per token, in height and in width."""
        return int(2 ** (len(self.vq.config.block_out_channels) - 1))

    def quantize(self, latents: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantized latents that pass the gradient on, tokens, and the weighted commitment loss.

        The gradient goes straight through ("fsq"), or turned and scaled as the latents were ("vq": the
        rotation trick, arXiv 2410.06424, the library's default).

        Args:
            latents: (N, C, h, w) of the encoder.
            seed: in training, where the codebook follows the latents: of the random numbers that it draws
                (k-means start, dead codes). The global random state is left untouched. None: nothing is drawn
                or changed.

        Returns:
            (N, C, h, w), long (N, h, w), a scalar.
        """
        # In float32 on every device: the quantizer itself turns autocast off on GPUs only.
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            if self.config.kind == "fsq":
                quantized, tokens = self.quantizer(latents)
                return quantized, tokens.long(), latents.new_zeros(())
            if seed is not None:
                with _seeded(seed, latents.device):
                    quantized, tokens, loss = self.quantizer(latents)
                return quantized, tokens, loss
            pixels = latents.permute(0, 2, 3, 1)
            tokens = (self.codes.square().sum(dim=1) - 2 * pixels @ self.codes.T).argmin(dim=-1)
            quantized = self.look_up(tokens)
            return quantized, tokens, self.config.commitment_weight * (quantized - latents).square().mean()

    @torch.no_grad()
    def encode(self, frames: Tensor, chunk: int = CHUNK) -> Tensor:
        """Tokens, long (N, h, w), of frames uint8 (N, H, W, 3); float32, since tokens do not round."""
        device = self.vq.device
        parts = []
        for part in frames.split(chunk):
            with torch.autocast(device.type, enabled=False):
                latents = self.vq.encode(to_model_range(part.to(device))).latents
            parts.append(self.quantize(latents)[1])
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, tokens: Tensor, chunk: int = CHUNK) -> Tensor:
        """Frames uint8 (N, H, W, 3) of tokens (N, h, w)."""
        parts = [to_uint8(self.decode_latents(self.look_up(part))) for part in tokens.split(chunk)]
        return torch.cat(parts)

    def look_up(self, tokens: Tensor) -> Tensor:
        """The codes (N, C, h, w) of tokens (N, h, w)."""
        return self.codes[tokens.to(self.codes.device)].permute(0, 3, 1, 2)

    def decode_latents(self, quantized: Tensor) -> Tensor:
        """Images (N, 3, H, W) from -1 to 1 of quantized latents (N, C, h, w)."""
        images: Tensor = self.vq.decode(quantized, force_not_quantize=True, return_dict=False)[0]
        return images

    def hash(self) -> str:
        """A short hash of all that decides tokens."""
        digest = hashlib.sha256()
        parts = {**self.vq.encoder.state_dict(), **self.vq.quant_conv.state_dict(), "codes": self.codes}
        for name, tensor in sorted(parts.items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write a folder that `load` and stock `VQModel.from_pretrained` open.

        Stock decoding needs `lookup_from_codebook`; stock encoding gives these tokens with vq only.
        """
        self.vq.quantize.embedding.weight.data.copy_(self.codes)
        self.vq.save_pretrained(folder, safe_serialization=True)
        save_file({k: v.contiguous() for k, v in self.quantizer.state_dict().items()}, folder / STATE_FILE)
        write_json(folder / _SETTINGS, self.config.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> FrameTokenizer:
        """Load what `save` wrote, in float32. Raises ValueError for a folder without its files."""
        check_weights(folder, "diffusers", "VQModel")
        config = QuantizerConfig(**read_json_mapping(folder / _SETTINGS))
        vq = VQModel.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
        skipped = ("num_vq_embeddings", "vq_embed_dim")
        known = {k: v for k, v in vq.config.items() if not k.startswith("_") and k not in skipped}
        tokenizer = cls(known, config)
        tokenizer.vq.load_state_dict(vq.state_dict())
        tokenizer.quantizer.load_state_dict(load_file(folder / STATE_FILE))
        return tokenizer


def _new_quantizer(config: QuantizerConfig, channels: int) -> Any:
    """Build a quantizer. Raises ValueError where their package is not installed."""
    try:
        from vector_quantize_pytorch import FSQ, VectorQuantize
    except ImportError as error:
        raise ValueError("the frame tokenizer needs pip install 'latent-shift[systems]'") from error
    if config.kind == "fsq":
        return FSQ(levels=list(config.levels))
    return VectorQuantize(
        dim=channels, codebook_size=config.codebook_size, decay=config.decay,
        commitment_weight=config.commitment_weight, kmeans_init=True, accept_image_fmap=True,
        threshold_ema_dead_code=config.threshold_ema_dead_code, sync_codebook=False,
    )  # fmt: skip


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the `with` block the global random state is that of the seed; after it the one before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
