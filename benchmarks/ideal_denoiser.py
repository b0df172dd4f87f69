"""How near a model of Moving Shapes comes to the best that any denoiser could do, motion by motion.

    python benchmarks/ideal_denoiser.py [--model MODEL ...] [--motion "circling clockwise" ...]

Clips of one sentence differ in what it leaves open: place, phase, amount. Their noised latents are estimated
by the exact posterior mean over many other clips of the same sentence: from the frame alone, from four frames
to each side, and from the whole clip. Beside these stands the model, told the sentence. Prints the mean
squared error of the clean latents at the middle frames by noise level; the noise is as alike between frames
as the model's. Where few clips resemble a noised one (little noise), the posterior is no bound any more.

Shapes: N clips of one sentence, Q of them noised, F frames, D numbers of a frame's latents.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from latent_shift.autoencoder import encode_frames
from latent_shift.checkpoints import load
from latent_shift.conditioning import caption_embeds, repeat_per_frame
from latent_shift.moving_shapes import Scene, caption, constants, draw_scene, render
from latent_shift.noise import draw_noise
from latent_shift.unet import set_num_frames

LEVELS = (-7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0)  # log signal-to-noise ratios
MOTIONS = (
    "moving left",
    "circling clockwise",
    "swinging from side to side",
    "bouncing",
    "spinning clockwise",
)
MIDDLE = (5, 7, 9)
WINDOWS = {"frame": 0, "nine": 4, "clip": constants.FRAMES}  # frames to each side that are looked at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["moving-shapes"])
    parser.add_argument("--motion", nargs="+", default=list(MOTIONS), choices=constants.MOTIONS)
    parser.add_argument("--clips", type=int, default=1200, help="of one sentence")
    parser.add_argument("--noised", type=int, default=16, help="of them, which are estimated")
    arguments = parser.parse_args()
    for motion in arguments.motion:
        scenes = of_one_sentence(motion, arguments.clips)
        for name in arguments.model:
            pipeline = load(name, device="cpu", dtype="fp32")
            latents = encoded(scenes, pipeline.vae)
            print(f"\n{caption(scenes[0])}; {name}; variance {latents.var(dim=0).mean():.4f}")
            print("log SNR " + " ".join(f"{level:7.0f}" for level in LEVELS))
            for row, errors in table(pipeline, latents, caption(scenes[0]), arguments.noised).items():
                print(f"{row:8}" + " ".join(f"{error:7.4f}" for error in errors), flush=True)


def of_one_sentence(motion: str, clips: int) -> list[Scene]:
    """Scenes that one sentence describes: an orange square (or a star, which spins) of plain size on navy."""
    shape, scenes, index = "star" if motion in constants.SPINNING else "square", [], 0
    while len(scenes) < clips:
        obj = draw_scene(91, index, motions=(motion,), split="any").objects[0]
        if obj.size_word == "":
            scenes.append(Scene("navy", (replace(obj, shape=shape, colour="orange"),)))
        index += 1
    return scenes


def encoded(scenes: list[Scene], vae) -> Tensor:
    """(N, F, C, h, w)."""
    parts = [torch.from_numpy(render(scenes[start : start + 100])) for start in range(0, len(scenes), 100)]
    flat = torch.cat([encode_frames(vae, part.flatten(0, 1), 256) for part in parts])
    return flat.unflatten(0, (len(scenes), constants.FRAMES))


def table(pipeline, latents: Tensor, sentence: str, noised: int) -> dict[str, list[float]]:
    """Error by noise level of the ideal by each window, and of the model."""
    settings, schedule = pipeline.video_config, pipeline.scheduler.alphas_cumprod
    correlations = (settings.shared_noise_ratio, settings.progressive_noise_alpha)
    clean, others = latents[:noised], latents[noised:]
    seeds = [torch.Generator().manual_seed(seed) for seed in range(noised)]
    noise = draw_noise(tuple(clean.shape), seeds, *correlations).view(clean.shape)
    rows: dict[str, list[float]] = {name: [] for name in (*WINDOWS, "model")}
    for level in LEVELS:
        timestep = int((schedule - torch.tensor(level).sigmoid()).abs().argmin())
        alpha = schedule[timestep]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        estimates = {
            name: ideal(noisy, alpha, others, covariance(*correlations), side)
            for name, side in WINDOWS.items()
        }
        estimates["model"] = predicted(pipeline, noisy, timestep, sentence)[:, MIDDLE]
        for name, estimate in estimates.items():
            rows[name].append(float((estimate - clean[:, MIDDLE]).square().mean()))
    return rows


def covariance(shared_noise_ratio: float, progressive_alpha: float) -> Tensor:
    """Of the noise between frames (F, F), as `draw_noise` makes it."""
    place = torch.arange(constants.FRAMES, dtype=torch.float64)
    apart = (place[:, None] - place).abs()
    own = progressive_alpha**apart if progressive_alpha else torch.eye(len(place)).double()
    return (1 - shared_noise_ratio) * own + shared_noise_ratio


def ideal(noisy: Tensor, alpha: Tensor, others: Tensor, noise: Tensor, side: int) -> Tensor:
    """Posterior mean (Q, 3, C, h, w) of the middle frames, each from so many frames to each side of it."""
    found = []
    for middle in MIDDLE:
        seen = slice(max(middle - side, 0), middle + side + 1)
        whitening = torch.linalg.inv(noise[seen, seen]).float()
        given, known = noisy[:, seen].flatten(2), alpha.sqrt() * others[:, seen].flatten(2)
        whitened = torch.einsum("fg,ngd->nfd", whitening, known)
        likelihood = torch.einsum("qfd,nfd->qn", given, whitened) - (known * whitened).sum(dim=(1, 2)) / 2
        weights = (likelihood / (1 - alpha)).softmax(dim=1)  # (Q, N)
        found.append(torch.einsum("qn,nchw->qchw", weights, others[:, middle]))
    return torch.stack(found, dim=1)


@torch.no_grad()
def predicted(pipeline, noisy: Tensor, timestep: int, sentence: str) -> Tensor:
    """The model's clean latents (Q, F, C, h, w) of noisy ones."""
    clips, frames = noisy.shape[:2]
    states = caption_embeds(pipeline, {}, [sentence] * clips, [False] * clips)
    told = repeat_per_frame(
        states,
        frames,
        (constants.SIZE, constants.SIZE),
        frame_positions=pipeline.video_config.frame_position_embedding,
    )
    set_num_frames(pipeline.unet, frames)
    steps = torch.full((clips * frames,), timestep)
    velocity = pipeline.unet(noisy.flatten(0, 1), steps, told.text, added_cond_kwargs=told.added).sample
    alpha = pipeline.scheduler.alphas_cumprod[timestep]
    return alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity.view_as(noisy)


if __name__ == "__main__":
    main()
