"""The four stages as training runs: resumed as never stopped, what is frozen, what a step sees."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from latent_shift import systems
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.base import TrainingPlan
from latent_shift.systems.cogvideo.clips import EMPTY
from latent_shift.systems.cogvideo.model import CogVideoModel
from latent_shift.systems.cogvideo.system import CogVideo
from latent_shift.systems.cogvideo.token_dataset import to_tokens
from latent_shift.systems.cogvideo.transformer_tasks import token_loss
from latent_shift.training.distributed import Interrupted
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

RECIPES = Path(__file__).parents[3] / "recipes" / "compare"


def ignore(progress):
    pass


def stop_at(step):
    return lambda progress: (
        (progress.stage, progress.step) == ("training", step) and signal.raise_signal(signal.SIGINT)
    )


def tensors(folder):
    return {
        (file.name, name): tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def batch_of(task, count=2):
    data = task.dataset(ignore)
    items = [data[index] for index in range(count)]
    return {
        "latents": torch.stack([item["latents"] for item in items]),
        "caption": [item["caption"] for item in items],
        "image_caption": [item["image_caption"] for item in items],
    }


# ---- runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["tokenizer", "key_frames"])
def test_a_resumed_run_equals_one_never_stopped(trained, recipe, stage):
    parted = recipe(stage)
    with pytest.raises(Interrupted):
        train(build_task(parted), stop_at(2))
    model = train(build_task(parted), ignore)
    assert same(tensors(model), tensors(trained / stage / "model"))
    last = "checkpoints/step-00000004"
    assert same(tensors(parted.output / last), tensors(trained / stage / last))
    if stage == "tokenizer":
        state = load_file(model / "frame_tokenizer" / "quantizer.safetensors")
        assert state["_codebook.initted"]
        assert (state["_codebook.cluster_size"] != 1).any()
        stopped = load_file(parted.output / "checkpoints/step-00000002/weights.safetensors")
        assert not torch.equal(stopped["tokenizer.quantizer._codebook.embed"], state["_codebook.embed"])


def test_stages_on_clips_leave_everything_else_as_it_was(trained):
    image, keys, last = (
        tensors(trained / stage / "model") for stage in ("image", "key_frames", "interpolation")
    )
    assert all(torch.equal(keys[key], image[key]) for key in image)
    assert all(torch.equal(last[key], keys[key]) for key in keys)
    assert {file for file, _ in keys.keys() - image.keys()} == {"key_frames.safetensors"}
    assert {file for file, _ in last.keys() - keys.keys()} == {"interpolation.safetensors"}
    fresh = CogVideoModel.load(trained / "image" / "model")
    moved = CogVideoModel.load(trained / "key_frames" / "model").channel("key_frames")
    start = fresh.transformer.new_channel(moved.config)
    for (name, before), after in zip(start.named_parameters(), moved.parameters(), strict=True):
        assert (before != after).any(), name


def test_images_of_every_stage_are_the_same_bit_for_bit(trained):
    from latent_shift.systems.base import GenerationRequest

    request = GenerationRequest(prompt="a red circle on a navy background", seed=3, frames=1)
    images = [
        systems.load(trained / stage / "model", device="cpu").generate([request])
        for stage in ("image", "key_frames", "interpolation")
    ]
    assert (images[0] == images[1]).all()
    assert (images[0] == images[2]).all()


def test_losses_and_validation_are_logged(trained, recipe):
    for stage in ("image", "key_frames", "interpolation"):
        lines = [json.loads(line) for line in (trained / stage / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
        assert lines[0]["loss"] == pytest.approx(
            torch.tensor(32.0).log().item(), abs=0.4
        )  # no better than chance
    held_out = recipe("key_frames", validation={"items": 2, "every": 2}, steps=2)
    train(build_task(held_out), ignore)
    assert "validation_loss" in (held_out.output / "log.jsonl").read_text()
    task = build_task(held_out)
    assert [item["key"] for item in map(task.validation(ignore).__getitem__, range(2))] == [
        "clip 4",
        "clip 5",
    ]


@pytest.mark.parametrize("stage", ["tokenizer", "image", "key_frames", "interpolation"])
def test_samples_are_a_sheet(trained, recipe, tmp_path, stage):
    settings = {} if stage == "tokenizer" else {"sampling": {"guidance_scale": 1.0}}
    build_task(recipe(stage, **settings)).samples(tmp_path / "samples", 7)
    assert (tmp_path / "samples" / "step-00000007.png").stat().st_size > 1000


# ---- a step ------------------------------------------------------------------------------------------


def test_stored_tokens_are_those_of_the_frames(recipe):
    task = build_task(recipe("key_frames"))
    item = task.dataset(ignore)[1]
    frames = torch.from_numpy(task.recipe.tokens.source.captioned_clips().frames([1]))[0]
    assert torch.equal(to_tokens(item["latents"]), task.model.frame_tokenizer.encode(frames).flatten(1))
    other = recipe("key_frames", tokens={**json.loads(task.recipe.tokens.model_dump_json()), "source": {
        "format": "moving-shapes", "seed": 9, "clips": 4}})  # fmt: skip
    with pytest.raises(ValueError, match="holds latents of other settings"):
        build_task(other).dataset(ignore)


def test_key_frames_span_the_clip_at_their_rate(recipe):
    task = build_task(recipe("key_frames"))
    rates, frames = task.chosen_frames(16, torch.tensor([0.0, 0.9]), torch.tensor([0.0, 0.99]))
    assert task.recipe.strides == (3,)  # the largest at which sixteen frames have six
    assert task.channel.config.frame_rates == pytest.approx((8 / 3,))
    assert frames.tolist() == [[0, 3, 6, 9, 12, 15]] * 2
    assert rates.tolist() == [0, 0]
    several = build_task(recipe("key_frames", frame_strides=[3, 2, 1]))
    rates, frames = several.chosen_frames(16, torch.tensor([0.4, 0.99]), torch.tensor([0.99, 0.5]))
    assert several.channel.config.frame_rates == pytest.approx((8 / 3, 4, 8))
    assert rates.tolist() == [1, 2]
    assert frames.tolist() == [[5, 7, 9, 11, 13, 15], [5, 6, 7, 8, 9, 10]]


def test_the_loss_of_a_window_is_on_unknown_frames_only(recipe):
    task = build_task(recipe("interpolation"))
    batch, rng = batch_of(task), StepRNG.of(step_seed(0, 1), 2)
    loss = task.eval()(batch, rng)["loss"]
    draws = torch.stack([torch.rand(3, generator=one) for one in rng.item_generators()], dim=1)
    rows, frames = task.chosen_frames(16, draws[0], draws[1])
    tokens = torch.stack(
        [to_tokens(clip)[chosen] for clip, chosen in zip(batch["latents"], frames, strict=True)]
    )
    text = task.model.captions(batch["caption"], tokens.device)
    logits = task.model.transformer(text, tokens, task.channel, rows)
    assert_close(loss, token_loss(logits[:, 1:3], tokens[:, 1:3]))
    assert frames.diff(dim=1).unique().tolist() == [1]


def test_captions_are_dropped_and_stills_named_with_and_without_motion(recipe, monkeypatch):
    task = build_task(recipe("image", caption_dropout=0.25))
    seen = []
    encode = task.model.captions.forward
    monkeypatch.setattr(
        task.model.captions, "forward", lambda texts, device: seen.extend(texts) or encode(texts, device)
    )
    count = 64
    batch = {
        "latents": torch.zeros(count, 1, 1, 8, 8), "caption": ["a circle moving left"] * count,
        "image_caption": ["a circle"] * count,
    }  # fmt: skip
    with torch.no_grad():
        for mode in (True, False):
            task.train(mode)(batch, StepRNG.of(step_seed(0, 1), count))
    trained_on, validated = seen[:count], seen[count:]
    assert 8 <= trained_on.count(EMPTY) <= 24
    assert validated.count(EMPTY) == 0
    assert 20 <= validated.count("a circle") <= 44
    assert validated.count("a circle") + validated.count("a circle moving left") == count
    assert all(text in (EMPTY, other) for text, other in zip(trained_on, validated, strict=True))


def test_captions_that_are_longer_than_the_text_are_told(recipe):
    task = build_task(
        recipe(
            "image",
            transformer={
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "text_length": 4,
            },
        )
    )
    batch = {"caption": ["a small red circle moving left on a black background"]}
    with pytest.warns(UserWarning, match="captions of more than 4 tokens are truncated"):
        assert task.captions(batch, torch.ones(1)) == batch["caption"]


def test_the_loss_of_every_stage_falls(recipe):
    for stage in ("image", "key_frames", "interpolation"):
        torch.manual_seed(0)
        task = build_task(recipe(stage, caption_dropout=0.0))
        batch, rng = batch_of(task), StepRNG.of(step_seed(0, 1), 2)
        trainable = [parameter for parameter in task.parameters() if parameter.requires_grad]
        optimizer, losses = torch.optim.Adam(trainable, lr=0.02), []
        for _ in range(12):
            optimizer.zero_grad()
            losses.append(task(batch, rng)["loss"])
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.01, stage


def test_the_first_frame_may_be_the_image_models(recipe):
    task = build_task(recipe("key_frames", first_frame="image"))
    assert not task.channel.config.first_frame
    batch, rng = batch_of(task), StepRNG.of(step_seed(0, 1), 2)
    tokens = to_tokens(batch["latents"])[:, ::3]
    text = task.model.captions(batch["caption"], tokens.device)
    logits = task.model.transformer(text, tokens, task.channel, torch.zeros(2, dtype=torch.long))
    assert_close(task.eval()(batch, rng)["loss"], token_loss(logits[:, 1:], tokens[:, 1:]))


# ---- recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("image", {"compile": True}, "compile: has no effect on this task"),
        (
            "key_frames",
            {"num_frames": 7, "frame_strides": [3]},
            "num_frames 7 at a stride of 3: clips of source have 16",
        ),
        (
            "image",
            {"transformer": {"hidden_size": 16, "num_attention_heads": 5}},
            "hidden_size 16: is no multiple",
        ),
        ("key_frames", {"num_frames": 17}, "num_frames 17 at a stride of 1"),
        ("interpolation", {"known": [0, 2]}, r"known \[0, 2\]: expected evenly spaced"),
        ("interpolation", {"num_frames": 5}, r"known \[0, 3\]: expected evenly spaced"),
    ],
)
def test_recipes_that_cannot_be_trained(recipe, stage, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(stage, **changes)


def test_the_stage_before_is_missing(recipe, tmp_path):
    with pytest.raises(ValueError, match="has no frame_tokenizer/: train the stage before it first"):
        build_task(recipe("key_frames", pretrained_model=str(tmp_path)))


def test_a_tokenizer_that_goes_on_keeps_its_network(trained, recipe):
    start = {"init_from": str(trained / "tokenizer" / "model")}
    same = recipe("tokenizer", **start)
    build_task(same)
    for changes, message in (
        ({"quantizer": {"codebook_size": 64}}, "codebook_size=64.*that of init_from is.*codebook_size=32"),
        ({"quantizer": "fsq"}, "it is the tokenizer of .* that is trained"),
        ({"autoencoder": {**same.autoencoder, "norm_num_groups": 8}}, "autoencoder.norm_num_groups is 8"),
    ):
        with pytest.raises(ValueError, match=message):
            build_task(recipe("tokenizer", **start, **changes))


def test_the_recipes_of_the_comparison_follow_one_another():
    stages = CogVideo.stages(TrainingPlan(RECIPES))
    assert [stage.name for stage in stages] == [
        "cogvideo-1-tokenizer-crops",
        "cogvideo-1-tokenizer",
        "cogvideo-2-image",
        "cogvideo-3-key-frames",
        "cogvideo-4-interpolation",
    ]
    assert [stage.trained_on for stage in stages] == ["images"] * 3 + ["clips"] * 2
    recipes = {stage.name: load_recipe(stage.recipe) for stage in stages}
    crops, whole, image, keys, between = recipes.values()
    assert whole.init_from == crops.output / "model"
    assert image.frame_tokenizer == whole.output / "model"
    assert keys.pretrained_model == image.output / "model"
    assert between.pretrained_model == keys.output / "model"
    assert whole.autoencoder == crops.autoencoder
    assert whole.quantizer == crops.quantizer
    assert image.tokens == keys.tokens == between.tokens
    assert [stage.name for stage in CogVideo.stages(TrainingPlan(RECIPES, frames=6))] == list(recipes)[:4]
    assert len(CogVideo.stages(TrainingPlan(RECIPES, frames=16))) == 5
