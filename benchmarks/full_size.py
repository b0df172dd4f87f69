"""What Stable Diffusion 1.5's size takes: a guided sampling step; training steps of LoRA and all weights.

    python benchmarks/full_size.py                    # 16 frames of 256x256 on the CPU: about 20 GiB, minutes
    python benchmarks/full_size.py --device cuda --dtype bf16
    python benchmarks/full_size.py --size tiny        # the same paths in seconds; its figures mean nothing

U-Net, autoencoder and text model have the published sizes and random weights: time and memory do not depend
on what the weights are. Each job runs in a process of its own, whose peak memory is printed: resident memory
on a CPU, allocated memory on a GPU. The training steps are those of the training loop, in the middle of a
run: the optimizer's states and the moving average are there before they begin.
A second table is computed, not measured: what each job needs on a GPU, by counting the tensors alive while
the same networks run on torch's meta device, which holds no data.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from diffusers.utils import logging
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="of what is measured; weights in training: fp32"
    )
    parser.add_argument(
        "--only",
        choices=(*JOBS, "computed"),
        help="one job, in this process: a JSON line; or the second table",
    )
    asked = parser.parse_args()
    logging.set_verbosity_error()  # of precisions that are as they should be
    if asked.only == "computed":
        print(computed_table(SIZES[asked.size]))
        return
    if asked.only is not None:
        print(json.dumps(measure(asked.only, SIZES[asked.size], asked.device, DTYPES[asked.dtype])))
        return
    print(heading(asked.size, asked.device, asked.dtype))
    print("| job | seconds | of them decoding or encoding | peak memory, GiB |\n|---|---|---|---|")
    for job in JOBS:
        found = in_own_process(job, sys.argv[1:])
        figures = f"{found['seconds']:.1f} | {found['autoencoder']:.1f} | {found['peak'] / GIB:.2f}"
        print(f"| {NAMES[job]} | {figures} |", flush=True)
    print(computed_table(SIZES[asked.size]))


def heading(size: str, device: str, dtype: str) -> str:
    clip = SIZES[size]
    threads = f"{torch.get_num_threads()} threads, " if device == "cpu" else ""
    shape = f"{clip.frames} frames of {clip.pixels}x{clip.pixels}"
    return f"Measured: {size} size, {shape}, {device}, {threads}{dtype}, torch {torch.__version__}\n"


def in_own_process(job: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments, "--only", job]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job}: ended with status {done.returncode} (-9: out of memory)")
    return json.loads(done.stdout.splitlines()[-1])


# Measured


def measure(job: str, size: Size, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Seconds in all and in the autoencoder, and the peak memory of this process in bytes."""
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


def build(size: Size, device: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """U-Net, autoencoder and text model with random weights."""
    place = CONFIGS / "sd-1"
    text = CLIPTextConfig.from_pretrained(place / "text_encoder", **size.text)
    with torch.device(device):
        parts = {
            "unet": UNet2DConditionModel.from_config({**unet_config(), **size.unet}),
            "vae": AutoencoderKL.from_config({**AutoencoderKL.load_config(place / "vae"), **size.vae}),
            "text_encoder": CLIPTextModel(text),
        }
    return {name: part.to(dtype).eval().requires_grad_(False) for name, part in parts.items()}


def unet_config() -> dict[str, Any]:
    return dict(UNet2DConditionModel.load_config(CONFIGS / "sd-1" / "unet"))


def sample(parts: dict[str, nn.Module], size: Size) -> tuple[float, float]:
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


def train_lora(parts: dict[str, nn.Module], size: Size, dtype: torch.dtype) -> tuple[float, float]:
    parts["unet"].add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    return train(parts, size, dtype)


def train_all(parts: dict[str, nn.Module], size: Size, dtype: torch.dtype) -> tuple[float, float]:
    parts["unet"].requires_grad_(True)
    return train(parts, size, dtype)


def train(parts: dict[str, nn.Module], size: Size, dtype: torch.dtype) -> tuple[float, float]:
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
    loss.backward()
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


def synchronize(parts: dict[str, nn.Module]) -> None:
    if parts["unet"].device.type == "cuda":
        torch.cuda.synchronize()


def denoise(unet: nn.Module, latents: Tensor, text: Tensor) -> Tensor:
    """The loss of one noise level: latents (F, C, h, w), text (F, L, D)."""
    noise = torch.randn_like(latents)
    timesteps = torch.full((len(latents),), 500, device=latents.device)
    return (unet(0.7 * latents + 0.7 * noise, timesteps, text).sample - noise).float().square().mean()


@torch.no_grad()
def encode_frames(vae: nn.Module, size: Size) -> Tensor:
    """Random frames, one at a time, to latents (F, C, h, w)."""
    frames = torch.rand(size.frames, 3, size.pixels, size.pixels, device=vae.device, dtype=vae.dtype)
    latents = [vae.encode(frame[None] * 2 - 1).latent_dist.mean for frame in frames]
    return torch.cat(latents) * vae.config.scaling_factor


@torch.no_grad()
def encode_text(parts: dict[str, nn.Module], prompts: int) -> Tensor:
    """Random tokens to text (prompts, L, D)."""
    model = parts["text_encoder"]
    length = model.config.max_position_embeddings
    return model(torch.randint(1000, (prompts, length), device=model.device)).last_hidden_state


# Computed


def computed_table(size: Size) -> str:
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


def activations(job: str, unet: nn.Module, size: Size) -> int:
    """The most bytes alive at once in a step of the U-Net, weights and kept gradients left out."""
    side, batch = size.pixels // 8, size.frames * (2 if job == "sampling" else 1)
    empty = {"device": "meta", "dtype": torch.bfloat16}
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
    parameter.grad = None


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made within it that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()  # tensors alive by the storage that they share

    def __torch_dispatch__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._holders[key]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._holders[key] += 1
        weakref.finalize(tensor, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.now -= size


class FusedAttention(torch.autograd.Function):
    """The shapes of fused attention, without arithmetic: it keeps queries, keys, values and its result."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def fused_attention() -> Iterator[None]:
    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return FusedAttention.apply(query, key, value)

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", attend):
        yield


if __name__ == "__main__":
    main()
