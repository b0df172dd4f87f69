"""Cost of Stable Diffusion 1.5's size: a guided sampling step; training steps of LoRA and all weights.

U-Net, autoencoder and text model have the published sizes and random weights: time and memory do not depend
on what the weights are. Each job runs in a process of its own, and its peak memory is given: resident memory
on a CPU, allocated memory on a GPU. The training steps are those of the training loop, in the middle of a
run: the optimizer's states and the moving average are there before they begin.
A second table is computed, not measured: what each job needs on a GPU, by counting the tensors alive while
the same networks run on torch's meta device, which holds no data.

python -m latent_shift.benchmark.full_size JOB SIZE DEVICE DTYPE      # one job, in this process: a JSON line
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from diffusers.utils import logging
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latent_shift.benchmark.measure import synchronize as wait_for
from latent_shift.benchmark.memory import LiveBytes, fused_attention
from latent_shift.checkpoints.single_file import CONFIGS
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.training.optim import new_optimizer
from latent_shift.training.recipe import OptimizerConfig
from latent_shift.unet import enable_temporal_shift

GIB = 2**30
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
JOBS = ("sampling", "lora", "full")
NAMES = {
    "sampling": "one guided step",
    "lora": f"LoRA (rank {RANK}), one step",
    "full": "all weights, one step",
}


@dataclass(frozen=True)
class Size:
    """The networks' changes to the published configs, and the clip."""

    frames: int
    pixels: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]


SIZES = {
    "full": Size(16, 256, {}, {}, {}),
    "tiny": Size(
        4, 64,
        {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 4},
        {"block_out_channels": (32, 32, 32, 32)},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
}  # fmt: skip


def tables(size: str, device: str, dtype: str) -> Iterator[str]:
    """The lines of both tables in Markdown, each as soon as it is there. Arguments: names as of `measure`."""
    yield heading(size, device, dtype)
    yield "| job | seconds | of them decoding or encoding | peak memory, GiB |\n|---|---|---|---|"
    for job in JOBS:
        found = in_own_process(job, size, device, dtype)
        figures = f"{found['seconds']:.1f} | {found['autoencoder']:.1f} | {found['peak'] / GIB:.2f}"
        yield f"| {NAMES[job]} | {figures} |"
    yield computed_table(SIZES[size])


def heading(size: str, device: str, dtype: str) -> str:
    """A line above the tables. size, device, dtype: as of `in_own_process`."""
    clip = SIZES[size]
    threads = f"{torch.get_num_threads()} threads, " if device == "cpu" else ""
    shape = f"{clip.frames} frames of {clip.pixels}x{clip.pixels}"
    return f"Measured: {size} size, {shape}, {device}, {threads}{dtype}, torch {torch.__version__}\n"


def in_own_process(job: str, size: str, device: str, dtype: str) -> dict[str, float]:
    """Measure a job in a fresh process.

    job: one of `JOBS`. size: one of `SIZES`. device: of torch. dtype: one of `DTYPES`. Raises ValueError
    where the process ends, as for lack of memory.
    """
    command = [sys.executable, "-m", __name__, job, size, device, dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{job}: ended with status {done.returncode} (-9: out of memory)")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# Measured


def measure(job: str, size: Size, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Seconds in all and in the autoencoder, and the peak memory of this process in bytes.

    job, size, device, dtype: as of `in_own_process`.
    """
    torch.manual_seed(0)
    parts = build(size, device, dtype if job == "sampling" else torch.float32)
    if job == "sampling":
        seconds, autoencoder = sample(parts, size)
    else:
        run = {"lora": train_lora, "full": train_all}[job]
        seconds, autoencoder = run(parts, size, dtype)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "autoencoder": autoencoder, "peak": peak}


def build(size: Size, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """U-Net, autoencoder and text model with random weights."""
    place = CONFIGS / "sd-1"
    text = CLIPTextConfig.from_pretrained(place / "text_encoder", **size.text)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made in float32 and cast, they would take twice the memory for a moment
    try:
        with torch.device(device):
            parts = {
                "unet": UNet2DConditionModel.from_config({**unet_config(), **size.unet}),
                "vae": AutoencoderKL.from_config({**AutoencoderKL.load_config(place / "vae"), **size.vae}),
                "text_encoder": CLIPTextModel(text),
            }
    finally:
        torch.set_default_dtype(before)
    return {name: part.to(dtype).eval().requires_grad_(False) for name, part in parts.items()}


def unet_config() -> dict[str, Any]:
    """The published configuration of the U-Net."""
    return dict(UNet2DConditionModel.load_config(CONFIGS / "sd-1" / "unet"))


def sample(parts: dict[str, Any], size: Size) -> tuple[float, float]:
    """One guided step of a clip and its decoding, by the pipeline itself; seconds, those of decoding."""
    pipeline = LatentShiftPipeline(
        **parts, tokenizer=None, scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.video_config = pipeline.video_config.overlaid(video_tuned=True)
    pipeline.set_progress_bar_config(disable=True)
    stepped = []

    def note(*_: Any) -> dict[str, Tensor]:
        stepped.append(time.perf_counter())
        return {}

    began = time.perf_counter()
    text = encode_text(parts, 2)
    pipeline(
        prompt_embeds=text[:1], negative_prompt_embeds=text[1:], num_frames=size.frames, height=size.pixels,
        width=size.pixels, num_inference_steps=1, output_type="np", decode_chunk_size=1,
        callback_on_step_end=note, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    synchronize(parts)
    ended = time.perf_counter()
    return ended - began, ended - stepped[-1]


def train_lora(parts: dict[str, Any], size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """As `train`, with LoRA layers only."""
    parts["unet"].add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    return train(parts, size, dtype)


def train_all(parts: dict[str, Any], size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """As `train`, with all weights of the U-Net."""
    parts["unet"].requires_grad_(True)
    return train(parts, size, dtype)


def train(parts: dict[str, Any], size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Encode a clip and its caption, then one step of AdamW and of the average, as the training loop does.

    Weights are float32, the arithmetic `dtype` by autocast. Returns seconds, and those of encoding.
    """
    unet = parts["unet"].train()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = new_optimizer(trained, OptimizerConfig(learning_rate=1e-5))
    average = EMAModel(trained, foreach=True)
    begin(optimizer, trained)
    enable_temporal_shift(unet, size.frames)
    unet.enable_gradient_checkpointing()
    began = time.perf_counter()
    with nullcontext() if dtype == torch.float32 else torch.autocast(unet.device.type, dtype):
        latents = encode_frames(parts["vae"], size)
        synchronize(parts)
        encoded = time.perf_counter() - began
        text = encode_text(parts, 1).repeat_interleave(size.frames, dim=0)
        loss = denoise(unet, latents, text)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    average.step(trained)
    synchronize(parts)
    return time.perf_counter() - began, encoded


def begin(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
    """Let the optimizer make its states, by a step of no gradient."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def synchronize(parts: dict[str, Any]) -> None:
    """Wait for what a GPU still has to do."""
    wait_for(parts["unet"].device.type)


def denoise(unet: Any, latents: Tensor, text: Tensor) -> Tensor:
    """The loss of one noise level: latents (F, C, h, w), text (F, L, D)."""
    noise = torch.randn_like(latents)
    timesteps = torch.full((len(latents),), 500, device=latents.device)
    return (unet(0.7 * latents + 0.7 * noise, timesteps, text).sample - noise).float().square().mean()


@torch.no_grad()
def encode_frames(vae: Any, size: Size) -> Tensor:
    """Random frames, one at a time, to latents (F, C, h, w)."""
    frames = torch.rand(size.frames, 3, size.pixels, size.pixels, device=vae.device, dtype=vae.dtype)
    latents = [vae.encode(frame[None] * 2 - 1).latent_dist.mean for frame in frames]
    return torch.cat(latents) * vae.config.scaling_factor


@torch.no_grad()
def encode_text(parts: dict[str, Any], prompts: int) -> Tensor:
    """Random tokens to text (prompts, L, D)."""
    model = parts["text_encoder"]
    length = model.config.max_position_embeddings
    return model(torch.randint(1000, (prompts, length), device=model.device)).last_hidden_state


# Computed


def computed_table(size: Size) -> str:
    """A line a job, in Markdown."""
    """What each job needs on a GPU, in GiB: by formula, and the activations counted."""
    lines = [
        "\nComputed, not measured: GiB on a GPU, bf16 arithmetic, attention that stores no map.",
        "Activations: the most that lives at once in one step of the U-Net, counted tensor by tensor.",
        "Training with gradient checkpointing, AdamW (two float32 states a weight) and the moving average;",
        "all weights are float32, as the training loop keeps them, the U-Net's with the bf16 copy that",
        "autocast keeps. In sampling all are bf16. Without losses of the allocator and what CUDA takes.",
        "",
        "| job | weights | gradients | optimizer | average | activations | together |",
        "|---|---|---|---|---|---|---|",
    ]
    for job in JOBS:
        needs = [part / GIB for part in computed(job, size)]
        lines.append(f"| {NAMES[job]} | {' | '.join(f'{part:.2f}' for part in [*needs, sum(needs)])} |")
    return "\n".join(lines)


def computed(job: str, size: Size) -> tuple[float, float, float, float, float]:
    """Bytes of weights, gradients, optimizer states, the moving average, and of activations at the peak."""
    parts = build(size, "meta", torch.bfloat16)
    unet = parts["unet"]
    if job == "lora":
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS), adapter_name="a")
    if job == "full":
        unet.requires_grad_(True)
    trained = sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for part in parts.values() for parameter in part.parameters())
    own = sum(parameter.numel() for parameter in unet.parameters())
    weights = 2 * every if job == "sampling" else 4 * every + 2 * own
    return weights, 4 * trained, 8 * trained, 4 * trained, activations(job, unet, size)


def activations(job: str, unet: Any, size: Size) -> int:
    """The most bytes alive at once in a step of the U-Net, weights and kept gradients left out."""
    side, batch = size.pixels // 8, size.frames * (2 if job == "sampling" else 1)
    empty: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    latents = torch.empty(batch, 4, side, side, **empty)
    text = torch.empty(batch, 77, unet.config.cross_attention_dim, **empty)
    enable_temporal_shift(unet, size.frames)
    with fused_attention(), LiveBytes() as counted:
        if job == "sampling":
            with torch.no_grad():
                unet(latents, torch.tensor(500, device="meta"), text)
        else:
            unet.train().enable_gradient_checkpointing()
            for parameter in unet.parameters():
                if parameter.requires_grad:  # the gradients that stay are counted by formula
                    parameter.register_post_accumulate_grad_hook(forget_gradient)
            denoise(unet, latents, text).backward()
    return counted.peak


def forget_gradient(parameter: Tensor) -> None:
    """Free the gradient of a parameter."""
    parameter.grad = None


def main(arguments: Sequence[str]) -> None:
    """Print what one job took as a JSON line."""
    job, size, device, dtype = arguments
    logging.set_verbosity_error()  # of precisions that are as they should be
    print(json.dumps(measure(job, SIZES[size], device, DTYPES[dtype])))


if __name__ == "__main__":
    main(sys.argv[1:])
