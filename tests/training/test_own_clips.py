"""Training on a user's own clips: decoded, encoded and learned from, the broken ones named and left out."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clips import captioned_folder, write_video
from latent_shift.autoencoder import encode_frames
from latent_shift.media import read_clip
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.rng import StepRNG
from latent_shift.training.datasets import loader
from latent_shift.training.distributed import Interrupted
from latent_shift.training.task import build_task
from latent_shift.training.tasks.denoising import DenoisingTask
from latent_shift.training.trainer import train
from tiny import open_components

FRAMES = {"num_frames": 4, "fps": 8, "height": 32, "width": 48}
NOWHERE = {"pretrained_model": "nowhere"}


@pytest.fixture
def own(tmp_path):
    """A folder of six clips with captions, one of them cut off."""
    captions = ["a red circle moving left on a black background"] * 6
    folder = captioned_folder(tmp_path / "own", captions, count=12)
    (folder / "5.mp4").write_bytes((folder / "5.mp4").read_bytes()[:200])
    return {"source": {"format": "folder", "path": str(folder)}, "frames": {**FRAMES, "max_bad_share": 0.5}}


@pytest.fixture
def tiny(recipe, own):
    return lambda **changes: recipe("video", latents=None, clips=own, **changes)


def ignore(progress):
    pass


def test_a_model_comes_out_that_makes_such_clips(tiny):
    wanted = tiny(sample_every=3)
    model = LatentShiftPipeline.from_pretrained(train(build_task(wanted), ignore))
    settings = model.video_config
    assert settings.video_tuned
    assert (settings.num_frames, settings.fps, settings.height, settings.width) == (4, 8, 32, 48)
    assert len(list((wanted.output / "samples").glob("*.png"))) == wanted.steps // 3


def test_samples_are_clips_as_files_and_in_tensorboard(tiny):
    wanted = tiny(sample_every=3, steps=3)
    train(build_task(wanted), ignore)
    frames, fps = read_clip(wanted.output / "samples" / "step-00000003.gif")
    assert (frames.shape, fps) == ((4, 64, 96, 3), 8)  # four clips of 32x48, in two lines
    (shown,) = EventAccumulator(str(wanted.output / "tensorboard")).Reload().Images("samples")
    assert shown.step == 3
    assert shown.encoded_image_string == (wanted.output / "samples" / "step-00000003.gif").read_bytes()


def test_the_noise_schedule_of_a_base_may_be_changed(tiny):
    changes = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "steps_offset": 1}
    module = build_task(tiny(scheduler=changes))
    assert module.pipeline.scheduler.config.prediction_type == "epsilon"
    assert build_task(tiny()).pipeline.scheduler.config.prediction_type == "v_prediction"
    assert build_task(tiny()).alphas[-1] == 0 < module.alphas[-1]
    folder = train(build_task(tiny(scheduler=changes, steps=1)), ignore)
    assert LatentShiftPipeline.from_pretrained(folder).scheduler.config.prediction_type == "epsilon"


def test_a_lack_of_memory_is_told_with_what_takes_less(tiny, monkeypatch):
    def allocate(self, batch, rng):
        return {"loss": torch.empty(10**15)}

    monkeypatch.setattr(DenoisingTask, "forward", allocate)
    with pytest.raises(ValueError, match="out of memory in a training step; .* gradient_checkpointing: true"):
        train(build_task(tiny()), ignore)


def test_a_broken_clip_is_named_and_left_out(tiny):
    wanted = tiny(num_workers=1)
    train(build_task(wanted), ignore)
    bad = [json.loads(line) for line in (wanted.output / "bad-clips.jsonl").read_text().splitlines()]
    assert {line["key"] for line in bad} == {"5.mp4"}
    assert all("5.mp4" in line["reason"] for line in bad)


def test_a_resumed_run_equals_one_never_stopped(tiny, tmp_path):
    whole, parted = tiny(), tiny(output=str(tmp_path / "parted"), num_workers=2)

    def stop(progress):
        if (progress.stage, progress.step) == ("training", 3):
            raise KeyboardInterrupt

    train(build_task(whole), ignore)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(build_task(parted.model_copy(update={"checkpoint_every": 1})), stop)
    train(build_task(parted), ignore)
    files = [one.output / "model" / "unet" / "diffusion_pytorch_model.safetensors" for one in (whole, parted)]
    first, second = map(load_file, files)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_that_of_the_encoded_frames(tiny):
    module = build_task(tiny(image_batch_ratio=0.0))
    batch = next(iter(loader(module.dataset(ignore), 2, 0, 0, workers=0, rank=0, world_size=1)))
    assert batch["frames"].shape == (2, 4, 32, 48, 3)
    latents = torch.stack([encode_frames(module.vae, clip, 4) for clip in batch["frames"]])
    captions = {name: batch[name] for name in ("caption", "image_caption")}
    with torch.no_grad():
        of_frames, of_latents = (
            module(given, StepRNG.of(5, 2))["loss"] for given in (batch, {"latents": latents, **captions})
        )
    assert torch.equal(of_frames, of_latents)


def batches(wanted, count):
    loaded = loader(build_task(wanted).dataset(ignore), 2, 0, 0, workers=0, rank=0, world_size=1)
    return [batch for batch, _ in zip(loaded, range(count), strict=False)]


def test_clips_of_several_shapes_train_in_batches_of_one_each(tiny, own):
    folder = Path(own["source"]["path"])
    write_video(folder / "tall.mp4", count=12, size=(96, 48))
    (folder / "tall.txt").write_text("a red circle moving left on a black background")
    own["frames"] = {"num_frames": 4, "buckets": {"pixels": 2048, "multiple": 16}, "max_bad_share": 0.5}
    shapes = {tuple(batch["frames"].shape) for batch in batches(tiny(), 8)}
    assert shapes == {(2, 4, 48, 48, 3), (2, 4, 64, 32, 3)}
    model = LatentShiftPipeline.from_pretrained(
        train(build_task(tiny(steps=8, validation={"items": 3, "every": 4})), ignore)
    )
    assert (model.video_config.height, model.video_config.width) == (48, 48)


def test_images_of_another_source_are_mixed_in(tiny, own, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 40), (200, 30 * number, 20)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text("a green ring on a black background")
    own["images"] = {"format": "folder", "path": str(images)}
    wanted = tiny(image_batch_ratio=0.5, steps=8, log_every=1)
    kinds = [(batch["frames"].shape[1], batch["key"][0].rpartition(".")[2]) for batch in batches(wanted, 8)]
    assert set(kinds) == {(1, "png"), (4, "mp4")}
    train(build_task(wanted), ignore)
    lines = [json.loads(line) for line in (wanted.output / "log.jsonl").read_text().splitlines()]
    assert ["image_loss" in line for line in lines] == [frames == 1 for frames, _ in kinds]


def test_a_run_knows_its_clips_by_names_and_captions(tiny):
    before = tiny().clips_hashes()
    assert tiny(steps=7).clips_hashes() == before
    folder = tiny().clips.source.path
    (folder / "0.txt").write_text("another caption")
    after = tiny().clips_hashes()
    assert (after["clips"] != before["clips"], after["files"] == before["files"]) == (True, True)


def test_a_run_knows_a_clip_that_was_replaced_by_one_of_the_same_name_caption_and_size(tiny):
    train(build_task(tiny(steps=2)), ignore)
    clip = next(tiny().clips.source.path.glob("*.mp4"))
    content = bytearray(clip.read_bytes())
    content[-1] ^= 1
    clip.write_bytes(content)
    with pytest.warns(UserWarning, match="its clips or captions are others than when it was begun"):
        train(build_task(tiny(steps=4)), ignore)


def test_a_run_does_not_write_where_it_looks_for_clips(tiny, own):
    folder = own["source"]["path"]
    with pytest.raises(ValueError, match="output: .*own/run lies in the folder of the clips"):
        build_task(tiny(output=f"{folder}/run"))
    build_task(tiny(output=f"{folder}/.run"))


def test_the_validation_keeps_its_clips_to_itself(tiny):
    module = build_task(tiny(validation={"items": 2, "every": 3}))
    trained, kept = module.dataset(ignore), module.validation(ignore)
    keys = [{record.key for record in part.records} for part in (trained, kept)]
    assert (len(keys[0]), len(keys[1])) == (4, 2)
    assert not keys[0] & keys[1]
    with pytest.raises(ValueError, match="6 of its 6 entries cannot be kept out"):
        build_task(tiny(validation={"items": 6, "every": 3})).dataset(ignore)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"latents": None}, "latents or clips: give one of them"),
        ({"clips": "both"}, "latents or clips: give one of them"),
        ({"clips": "buckets"}, "buckets and height or width contradict each other"),
    ],
)
def test_a_wrong_choice_of_data_is_told(recipe, own, changes, error):
    if "clips" in changes:
        both = {"clips": own}
        frames = {**own["frames"], "buckets": {"pixels": 4096}}
        changes = (
            both if changes["clips"] == "both" else {"clips": {**own, "frames": frames}, "latents": None}
        )
    with pytest.raises(ValueError, match=error):
        recipe("video", **changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"pretrained_model": "nowhere/at/all"}, "pretrained_model: 'nowhere/at/all': unknown model"),
        ({"frames": {**FRAMES, "width": 44}}, "clips.frames.width is 44; this model takes multiples of 8"),
        (
            {"frames": {"num_frames": 4, "buckets": {"pixels": 1024, "multiple": 4}}},
            "clips.frames.buckets.multiple is 4; this model takes multiples of 8",
        ),
        # what only the clips can tell: before even the base is looked at
        (
            {"frames": {**FRAMES, "num_frames": 400}, "pretrained_model": "nowhere"},
            "too short: .* frames of the 400",
        ),
        (
            {"frames": {**FRAMES, "fps": 500}, "pretrained_model": "nowhere"},
            "frames a second, 500 are requested",
        ),
    ],
)
def test_what_cannot_be_trained_is_told_before_any_work(recipe, own, changes, error):
    clips = {**own, "frames": changes.get("frames", own["frames"])}
    name = "pretrained_model"
    base = {name: changes[name]} if name in changes else {}
    wanted = recipe("video", latents=None, clips=clips, **base)
    with pytest.raises(ValueError, match=error):
        train(build_task(wanted), ignore)
    assert not wanted.output.exists()


def test_keys_that_would_do_nothing_are_refused(recipe, own):
    for task, changes, message in (
        ("autoencoder", {"frames": {"buckets": {"pixels": 4096}}}, "clips.frames.buckets: an autoencoder"),
        ("autoencoder", {"images": own["source"]}, "clips.images: an autoencoder's frames do not have it"),
        ("autoencoder", {"precomputed_latents": True}, "clips.precomputed_latents: an autoencoder"),
        ("autoencoder", {"frames": {**FRAMES, "width": 44}}, "width is 44; this model takes multiples of 8"),
        ("image", {"append_fps_to_caption": True}, "clips.append_fps_to_caption: single frames do not have"),
    ):
        data = {"source": None, "crop": None} if task == "autoencoder" else {"latents": None}
        with pytest.raises(ValueError, match=message):
            recipe(task, **data, clips={**own, **changes})
    with pytest.raises(ValueError, match="clips.images: with image_batch_ratio 0 no batch has images"):
        recipe("video", latents=None, clips={**own, "images": own["source"]}, image_batch_ratio=0.0)
    for key, value in (("guidance_scale", 200), ("num_inference_steps", 5000)):
        with pytest.raises(ValueError, match=f"sampling.{key}"):
            recipe("video", sampling={key: value})
    with pytest.raises(ValueError, match=r"experimental.shift_strides"):
        recipe("video", experimental={"shift_strides": [70_000]})


def test_an_autoencoder_keeps_clips_out_of_a_folder_with_images(recipe, own, tmp_path):
    for number in range(12):
        Image.new("RGB", (48, 32)).save(tmp_path / "own" / f"image-{number}.png")
        (tmp_path / "own" / f"image-{number}.txt").write_text("a red circle\n")
    data = {"source": None, "crop": None, "clips": own, "validation": {"items": 2, "every": 3}}
    for seed in range(4):
        wanted = recipe("autoencoder", seed=seed, **data)
        task = build_task(wanted)
        assert (len(task.dataset(ignore)), len(task.validation(ignore))) == (4, 2)


def test_images_in_buckets_are_as_large_as_their_middle_one(recipe, own):
    frames = {"num_frames": 1, "buckets": {"pixels": 4096, "multiple": 8}}
    build_task(recipe("image", latents=None, clips={**own, "frames": frames}))


def test_captions_that_say_the_frame_rate_make_prompts_that_say_it(recipe, own, tmp_path):
    StableDiffusionPipeline(**open_components()).save_pretrained(tmp_path / "open")
    own["append_fps_to_caption"] = True
    wanted = recipe(
        "video", latents=None, clips=own, pretrained_model=str(tmp_path / "open"), image_batch_ratio=0.0
    )
    module = build_task(wanted)
    batch = next(iter(loader(module.dataset(ignore), 2, 0, 0, workers=0, rank=0, world_size=1)))
    told = [f"{caption}, 8 frames a second" for caption in batch["caption"]]
    silent = {**batch, "caption": told, "fps": batch["fps"]}
    with torch.no_grad():
        loss = module(batch, StepRNG.of(5, 2))["loss"]
        module.append_fps = False
        assert torch.equal(loss, module(silent, StepRNG.of(5, 2))["loss"])
    model = LatentShiftPipeline.from_pretrained(train(build_task(wanted), ignore))
    assert model.video_config.append_fps_to_caption

    def clip(prompt, **options):
        dice = torch.Generator().manual_seed(0)
        return model(prompt, generator=dice, output_type="latent", num_inference_steps=2, **options).frames

    at_four, at_eight = clip("a red circle", fps=4), clip("a red circle")
    assert not torch.equal(at_four, at_eight)
    image = clip("a red circle", num_frames=1)
    model.video_config = model.video_config.overlaid(append_fps_to_caption=False)
    assert torch.equal(at_four, clip("a red circle, 4 frames a second", fps=4))
    assert torch.equal(at_eight, clip("a red circle, 8 frames a second"))
    assert torch.equal(image, clip("a red circle", num_frames=1))


def test_a_closed_vocabulary_cannot_be_told_the_frame_rate(recipe, own):
    with pytest.raises(ValueError, match=r"clips.append_fps_to_caption: this model has a closed vocabulary"):
        build_task(recipe("video", latents=None, clips={**own, "append_fps_to_caption": True}))
    with pytest.raises(ValueError, match="precomputed_latents and append_fps_to_caption"):
        recipe(
            "video", latents=None, clips={**own, "append_fps_to_caption": True, "precomputed_latents": True}
        )
