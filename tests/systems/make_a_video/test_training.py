"""Training of the stages: losses, random numbers, resuming, and what a recipe may not say."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate

from clips import write_video
from latent_shift import systems
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.make_a_video.data import resize, to_pixels
from latent_shift.systems.make_a_video.text_tasks import draw_known
from latent_shift.systems.temporal_layers import temporal_parameters
from latent_shift.training.distributed import Interrupted
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

STILLS = ("image", "image_sr", "high_sr", "prior-image")
NAMES = (*STILLS, "video", "interpolation", "video_sr", "prior-video")


def ignore(progress):
    pass


def batch_of(task, count=2):
    data = task.dataset(ignore)
    return default_collate([data[index] for index in range(count)])


def step(number=1, size=2):
    return StepRNG.of(step_seed(0, number), size)


# ---- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_finite_repeatable_and_reaches_the_weights(task, name):
    one = task(name) if name in STILLS else task(name, image_batch_ratio=0.0)
    batch = batch_of(one)
    metrics = one(batch, step())
    assert metrics["loss"].isfinite()
    assert metrics.keys() == {"loss", "image_loss" if name in STILLS else "clip_loss"}
    assert torch.equal(one(batch, step())["loss"], metrics["loss"])
    assert not torch.equal(one(batch, step(2))["loss"], metrics["loss"])
    metrics["loss"].backward()
    assert all(one.grad is not None for one in one.stage.parameters())
    frozen = [parameter for name, parameter in one.named_parameters() if not name.startswith("stage.")]
    assert not any(parameter.requires_grad for parameter in frozen)


@pytest.mark.parametrize("name", ["video", "video_sr"])
def test_images_give_every_weight_a_gradient_which_several_processes_wait_for(task, name):
    one = task(name, image_batch_ratio=1.0)
    metrics = one(batch_of(one), step())
    assert "image_loss" in metrics
    metrics["loss"].backward()
    assert all(parameter.grad is not None for parameter in one.stage.parameters())
    assert not any(parameter.grad.any() for parameter in temporal_parameters(one.stage.unet).values())


def test_items_of_a_batch_do_not_depend_on_the_others(task):
    one = task("interpolation").eval()
    batch = batch_of(one, 4)
    whole = one(batch, step(size=4))["loss"]
    parts = [one(part, part_rng)["loss"] for part, part_rng in step(size=4).microbatches(_listed(batch), 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def _listed(batch):
    return {key: value if torch.is_tensor(value) else list(value) for key, value in batch.items()}


def test_images_take_part_among_clips_in_the_ratio_of_the_recipe(task):
    one = task("video", image_batch_ratio=0.4)
    batch = batch_of(one)
    with torch.no_grad():
        kinds = ["image_loss" in one(batch, step(number)) for number in range(30)]
        assert 6 <= sum(kinds) <= 18
        assert not any("image_loss" in one.eval()(batch, step(number)) for number in range(8))


@pytest.mark.parametrize("name", ["video", "video_sr", "interpolation"])
def test_twelve_steps_lower_the_loss(task, name):
    one = task(name, image_batch_ratio=0.0)
    batch, optimizer = batch_of(one), torch.optim.AdamW(one.stage.parameters(), 0.003)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = one(batch, step())["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_gradient_checkpointing_changes_no_gradient(task):
    gradients = []
    for checkpointing in (False, True):
        one = task("video_sr", gradient_checkpointing=checkpointing, image_batch_ratio=0.0)
        one(batch_of(one), step())["loss"].backward()
        gradients.append([parameter.grad for parameter in one.stage.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


# ---- conditions -------------------------------------------------------------------------------------


def test_masks_of_known_frames_in_their_shares():
    generators = step(size=3000).item_generators()
    known = draw_known(16, generators)
    counts = {}
    for mask in known.tolist():
        counts[tuple(mask)] = counts.get(tuple(mask), 0) + 1 / 3000
    numbers = range(16)
    expected = {
        **{tuple(n % stride == 0 for n in numbers): 0.7 / 3 for stride in (2, 3, 5)},
        tuple(n == 0 for n in numbers): 0.1,
        tuple(n in (0, 15) for n in numbers): 0.1,
        (False,) * 16: 0.1,
    }
    assert counts.keys() == expected.keys()
    assert all(counts[mask] == pytest.approx(share, abs=0.03) for mask, share in expected.items())
    assert torch.equal(draw_known(16, step(size=3000).item_generators()), known)


def contexts(one, batch, number=1, size=2):
    """The conditions that the U-Net gets in a step."""
    seen = []
    handle = one.stage.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    with torch.no_grad():
        one(batch, step(number, size))
    handle.remove()
    return seen[0]


def test_clips_give_their_frame_rate_and_images_none(task):
    one = task("video", image_batch_ratio=0.0, caption_dropout=0.0)
    batch = batch_of(one)
    context = contexts(one, batch)
    torch.testing.assert_close(context.label, torch.full((2,), 8 / 3))
    assert context.text.text.shape[:2] == (12, 24)  # two clips of six frames; the text with positions, twice
    images = contexts(task("video", image_batch_ratio=1.0, caption_dropout=0.0), batch)
    assert images.label.tolist() == [0.0] * 12
    assert images.text.text.shape[:2] == (12, 12)


def test_dropped_captions_are_those_of_the_empty_text(task):
    one = task("video", caption_dropout=1.0, image_batch_ratio=0.0, frame_position_embedding=False)
    states = one.text.embed([""])[0]
    assert torch.equal(contexts(one, batch_of(one)).text.text, states.expand(12, -1, -1))
    without = contexts(one.eval(), batch_of(one)).text.text
    assert not torch.equal(without[0], states[0])
    stills = task("prior-video", caption_dropout=1.0)
    assert not contexts(stills, batch_of(stills)).text.added["image_embeds"].any()


def test_super_resolution_reads_the_smaller_frames_with_noise_of_its_level(task):
    one = task("video_sr", image_batch_ratio=0.0)
    batch = batch_of(one, 6)
    low = resize(resize(to_pixels(batch["frames"], 32), 16, "area"), 32, "bilinear")
    spreads = []
    for number in range(4):
        context = contexts(one, batch, number, 6)
        assert ((context.label >= 0) & (context.label <= 0.3)).all()
        spreads.append(torch.stack([context.label, (context.channels - low).flatten(1).std(dim=1)]))
    level, spread = torch.cat(spreads, dim=1)
    assert torch.corrcoef(torch.stack([level, spread]))[0, 1] > 0.99
    clean = contexts(task("video_sr", image_batch_ratio=0.0, max_noise_level=0.0), batch, 1, 6)
    torch.testing.assert_close(clean.channels, low)


def test_embeddings_of_stills_are_of_the_frame_itself_or_of_one_of_the_clip(task):
    one = task("prior-image", caption_dropout=0.0)
    batch = batch_of(one)
    embeds = contexts(one, batch).text.added["image_embeds"]
    assert torch.equal(embeds, one.still_encoder(batch["frames"][:, 0]))
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(2))
    clip_task = task("prior-video", caption_dropout=0.0, image_batch_ratio=0.0)
    batch = batch_of(clip_task)
    embeds = contexts(clip_task, batch).text.added["image_embeds"].unflatten(0, (2, 6))
    every = clip_task.still_encoder(batch["frames"].flatten(0, 1)).unflatten(0, (2, 6))
    for clip, stills in zip(embeds, every, strict=True):
        assert (clip == clip[0]).all()
        assert any(torch.allclose(clip[0], still, atol=1e-6) for still in stills)
    images = contexts(task("prior-video", caption_dropout=0.0, image_batch_ratio=1.0), batch)
    torch.testing.assert_close(images.text.added["image_embeds"], every.flatten(0, 1))


# ---- runs -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_equals_one_never_stopped(recipe_file, tmp_path):
    settings = {
        "validation": {"items": 2, "every": 2}, "sample_every": 4, "fps_curriculum": True, "num_workers": 0
    }  # fmt: skip
    whole = load_recipe(recipe_file("video", **settings))
    parted = whole.model_copy(update={"output": tmp_path / "parted"})
    train(build_task(whole), ignore)
    with pytest.raises(Interrupted, match="stopped at step 2"):
        train(build_task(parted), lambda progress: progress.step == 2 and signal.raise_signal(signal.SIGINT))
    model = train(build_task(parted), ignore)
    for run in (whole, parted):
        run.output.joinpath("losses.json").write_text(json.dumps([
            [line[key] for key in ("step", "loss", "gradient_norm")] + [line.get("validation_loss")]
            for line in map(json.loads, (run.output / "log.jsonl").read_text().splitlines())
        ]))  # fmt: skip
    names = {file.relative_to(parted.output) for file in parted.output.rglob("*.safetensors")}
    assert {"weights.safetensors", "ema.safetensors", "temporal.safetensors"} <= {name.name for name in names}
    for name in (*(name for name in names if "step-00000002" not in str(name)), "losses.json"):
        assert (whole.output / name).read_bytes() == (parted.output / name).read_bytes(), name
    assert (whole.output / "samples" / "step-00000004.png").is_file()
    assert systems.load(model, device="cpu").info().defaults.frames == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image", "interpolation", "video_sr", "prior"])
def test_stages_train_validate_sample_and_export(recipe_file, models, name):
    extra = {} if name == "prior" else {"sample_every": 2}
    changes = {"steps": 2, "validation": {"items": 2, "every": 1}, **extra}
    recipe = load_recipe(recipe_file(name, **changes))
    model = train(build_task(recipe), ignore)
    last = json.loads((recipe.output / "log.jsonl").read_text().splitlines()[-1])
    assert last["validation_loss"] > 0
    assert (name == "prior") or (recipe.output / "samples" / "step-00000002.png").is_file()
    before = {file.relative_to(models / name) for file in (models / name).rglob("*.safetensors")}
    after = {file.relative_to(model) for file in model.rglob("*.safetensors")}
    assert before == after
    assert "Moving Shapes" in (model / "README.md").read_text()


def test_an_interpolation_begins_with_the_weights_of_video(task, models):
    own = task("interpolation").stage.unet.state_dict()
    stock = load_file(models / "video" / "video" / "unet" / "diffusion_pytorch_model.safetensors")
    temporal = load_file(models / "video" / "video" / "temporal.safetensors")
    for key, value in {**stock, **temporal}.items():
        assert torch.equal(own[key][:, :48] if key == "conv_in.weight" else own[key], value)


def test_clips_of_files(recipe_file, tmp_path):
    (tmp_path / "films").mkdir()
    for number in range(3):
        write_video(tmp_path / "films" / f"{number}.mp4", count=16, fps=8)
        (tmp_path / "films" / f"{number}.txt").write_text("a red circle")
    clips = {
        "source": {"format": "folder", "path": str(tmp_path / "films")},
        "frames": {"num_frames": 4, "fps": 4, "height": 32, "width": 32},
    }
    for name in ("image", "video"):
        stride = {"frame_stride": 1} if name == "video" else {}
        one = build_task(load_recipe(recipe_file(name, source=None, clips=clips, **stride)))
        batch = batch_of(one)
        assert batch["frames"].shape == (2, 1 if name == "image" else 4, 32, 32, 3)
        assert one(batch, step())["loss"].isfinite()
    assert (one.stage.config.frames, one.stage.config.fps) == (4, 4.0)


# ---- recipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("image", {"size": 18}, "size 18 must be a multiple of 8, patch times the U-Net's scale"),
        ("image", {"size": 128}, "the data have 64x64 pixels; this stage needs square ones of 128"),
        ("image", {"text_conditioning": "prior"}, "text_conditioning prior and unet.encoder_hid_dim_type"),
        ("image", {"source": None}, "source or clips: give one of them"),
        ("image", {"colour": 1}, "colour: unknown key"),
        ("video", {"init_from": "nowhere"}, "init_from: nowhere has no image/"),
        ("video", {"frame_stride": 1, "fps_curriculum": True}, "fps_curriculum draws strides from 1 to"),
        ("video", {"temporal_head_width": 7}, "head_width 7: 8 channels are no multiple"),
        ("prior-video", {"video_encoder_from": None}, "video_encoder_from: stages that read embeddings"),
        ("image_sr", {"low_size": 12}, "size 32 must be a multiple of low_size 12"),
        ("image_sr", {"unet": {"in_channels": 3}}, "UNet2DModel has no in_channels"),
        ("interpolation", {"init_from": "nowhere"}, "init_from: nowhere has no video/"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_say(recipe_file, name, changes, message):
    with pytest.raises(ValueError, match=message):
        build_task(load_recipe(recipe_file(name, **changes)))


def test_text_that_does_not_fit(recipe_file, task):
    unet = {**task("image").recipe.unet, "cross_attention_dim": 8}
    with pytest.raises(ValueError, match="cross_attention_dim is 8, but must be 16: the text encoder's"):
        build_task(load_recipe(recipe_file("image", unet=unet)))
