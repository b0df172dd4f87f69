"""Training on a user's own clips: decoded, encoded and learned from, the broken ones named and left out."""

import json

import pytest
import torch
from safetensors.torch import load_file

from clips import write_video
from latent_shift.data.latents import encode_frames
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.training.batches import loader
from latent_shift.training.interrupts import Interrupted
from latent_shift.training.run import objective, run
from tiny_xl import tiny_xl_folder

FRAMES = {"num_frames": 4, "fps": 8, "height": 32, "width": 48}


@pytest.fixture
def own(tmp_path):
    """A folder of six clips with captions, one of them cut off."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(6):
        write_video(folder / f"{number}.mp4", count=12)
        (folder / f"{number}.txt").write_text("a red circle moving left on a black background")
    (folder / "5.mp4").write_bytes((folder / "5.mp4").read_bytes()[:200])
    return {"source": {"format": "folder", "path": str(folder)}, "frames": {**FRAMES, "max_bad_share": 0.5}}


@pytest.fixture
def tiny(recipe, own):
    return lambda **changes: recipe("video", latents=None, clips=own, **changes)


def ignore(progress):
    pass


def test_a_model_comes_out_that_makes_such_clips(tiny):
    wanted = tiny(sample_every=3)
    model = LatentShiftPipeline.from_pretrained(run(wanted, ignore))
    settings = model.video_settings
    assert settings.video_tuned
    assert (settings.num_frames, settings.fps, settings.height, settings.width) == (4, 8, 32, 48)
    assert len(list((wanted.output / "samples").glob("*.png"))) == wanted.steps // 3


def test_a_broken_clip_is_named_and_left_out(tiny):
    wanted = tiny(workers=1)
    run(wanted, ignore)
    bad = [json.loads(line) for line in (wanted.output / "bad-clips.jsonl").read_text().splitlines()]
    assert {line["key"] for line in bad} == {"5.mp4"}
    assert all("5.mp4" in line["reason"] for line in bad)


def test_a_resumed_run_equals_one_never_stopped(tiny, tmp_path):
    whole, parted = tiny(), tiny(output=str(tmp_path / "parted"), workers=2)

    def stop(progress):
        if (progress.stage, progress.step) == ("training", 3):
            raise KeyboardInterrupt

    run(whole, ignore)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        run(parted.model_copy(update={"checkpoint_every": 1}), stop)
    run(parted, ignore)
    files = [one.output / "model" / "unet" / "diffusion_pytorch_model.safetensors" for one in (whole, parted)]
    first, second = map(load_file, files)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_that_of_the_encoded_frames(tiny):
    module = objective(tiny(image_steps=0.0))
    batch = next(iter(loader(module.dataset(ignore), 2, 0, 0, workers=0, rank=0, world_size=1)))
    assert batch["frames"].shape == (2, 4, 32, 48, 3)
    latents = torch.stack([encode_frames(module.vae, clip, 4) for clip in batch["frames"]])
    captions = {name: batch[name] for name in ("caption", "image_caption")}
    with torch.no_grad():
        of_frames, of_latents = (
            module(given, 5)["loss"] for given in (batch, {"latents": latents, **captions})
        )
    assert torch.equal(of_frames, of_latents)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"latents": None}, "latents or clips: give one of them"),
        ({"clips": "both"}, "latents or clips: give one of them"),
        ({"clips": {"frames": {"buckets": {"pixels": 4096}}}}, "frames.buckets cannot be trained on"),
    ],
)
def test_a_wrong_choice_of_data_is_told(recipe, own, changes, error):
    if "clips" in changes:
        given = own if changes["clips"] == "both" else {**own, **changes["clips"]}
        changes = {"clips": given} if given is own else {"clips": given, "latents": None}
    with pytest.raises(ValueError, match=error):
        recipe("video", **changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"base": "nowhere/at/all"}, "base: 'nowhere/at/all': unknown model"),
        ({"frames": {**FRAMES, "width": 44}}, "clips.frames.width is 44; this model takes multiples of 8"),
    ],
)
def test_what_cannot_be_trained_is_told_before_any_work(recipe, own, changes, error):
    clips = {**own, "frames": changes.get("frames", own["frames"])}
    base = {"base": changes["base"]} if "base" in changes else {}
    wanted = recipe("video", latents=None, clips=clips, **base)
    with pytest.raises(ValueError, match=error):
        run(wanted, ignore)
    assert not wanted.output.exists()


def test_an_sdxl_base_is_refused(recipe, own, tmp_path):
    tiny_xl_folder(tmp_path / "xl")
    with pytest.raises(ValueError, match="base: .*xl is an SDXL model"):
        run(recipe("video", latents=None, clips=own, base=str(tmp_path / "xl")), ignore)
