"""The first system: requests in, clips out, alone or in a batch; files, facts and counts."""

import json

import numpy as np
import pytest
import torch

from latent_shift import systems
from latent_shift.checkpoints import load, weights_hash
from latent_shift.systems.base import GenerationRequest, Stage, TrainingPlan
from latent_shift.systems.latent_shift import LatentShift
from tiny import tiny_pipeline_folder

PROMPTS = (
    "a large red star moving left on a navy background",
    "a small yellow star moving up and to the right on a teal background",
    "a green square bouncing on a navy background",
    "a white heart circling counterclockwise on a maroon background",
    "a cyan cross spinning clockwise on a gray background",
    "a pink ring growing on a brown background",
    "an orange triangle swinging from side to side on a black background",
    "a purple star shrinking on a teal background",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def system(folder):
    return systems.load(folder, device="cpu")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def request(prompt="a red circle", seed=1, **values):
    return GenerationRequest(prompt=prompt, seed=seed, **values)


def together_and_one_by_one(system, requests):
    return system.generate(requests), np.concatenate([system.generate([each]) for each in requests])


# ---- clips ------------------------------------------------------------------------------------------


def test_a_clip_a_request(system):
    clips = system.generate([request(), request("a green square", 2)])
    assert (clips.dtype, clips.shape) == (np.uint8, (2, 4, 32, 32, 3))
    assert (clips[0] != clips[1]).any()
    assert system.generate([request(frames=1, height=24, width=40)]).shape == (1, 1, 24, 40, 3)


def test_clips_are_the_pipelines(system, folder):
    pipeline = load(folder)
    pipeline.set_progress_bar_config(disable=True)
    given = {"num_frames": 2, "num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": "green"}
    expected = pipeline(
        "a red circle", generator=torch.Generator().manual_seed(5), output_type="np", **given
    ).frames
    wanted = request(seed=5, frames=2, steps=2, guidance=2.0, negative="green")
    assert (system.generate([wanted]) == (expected * 255).round().astype(np.uint8)).all()


@pytest.mark.parametrize(
    "values", [{"frames": 8}, {"frames": 16, "guidance": 1.0}, {"frames": 8, "negative": "red"}]
)
def test_a_clip_of_many_images_does_not_depend_on_its_batch(system, values):
    prompts = ["a red circle", "a green square moves left", "a black circle grows", "a square"] * 2
    requests = [request(prompt, seed, **values) for seed, prompt in enumerate(prompts)]
    together, one_by_one = together_and_one_by_one(system, requests)
    assert (together == one_by_one).all()


@pytest.mark.slow
def test_a_clip_of_the_built_in_model_does_not_depend_on_its_batch(one_thread):
    system = systems.load("moving-shapes", device="cpu")
    requests = [request(prompt, seed, steps=2) for seed, prompt in enumerate(PROMPTS)]
    together, one_by_one = together_and_one_by_one(system, requests)
    assert together.shape == (8, 16, 64, 64, 3)
    assert (together == one_by_one).all()


def test_few_images_round_otherwise_in_a_batch_at_most(system, one_thread):
    prompts = ["a red circle", "a green square moves left", "a black circle grows", "a square"] * 2
    requests = [request(prompt, seed) for seed, prompt in enumerate(prompts)]
    together, one_by_one = together_and_one_by_one(system, requests)
    apart = np.abs(together.astype(int) - one_by_one)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.001


def test_a_seed_that_is_not_given_is_drawn(system):
    clips = system.generate([GenerationRequest(prompt="a circle") for _ in range(2)])
    assert (clips[0] != clips[1]).any()


def test_steps_are_told_and_an_exception_of_the_listener_ends_the_call(system):
    steps = []
    system.generate([request(), request(seed=2)], lambda done, of: steps.append((done, of)))
    assert steps == [(1, 3), (2, 3), (3, 3)]

    def stop(done, of):
        raise InterruptedError(done)

    with pytest.raises(InterruptedError, match="1"):
        system.generate([request()], stop)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "at least one request"),
        ([request(), request(frames=2)], "of one shape"),
        ([request(), request(negative="red")], "of one shape"),
        ([request(height=30)], "height=30 must be a multiple of 4"),
    ],
)
def test_requests_that_cannot_be_met(system, requests, message):
    with pytest.raises(ValueError, match=message):
        system.generate(requests)


def test_reconstruction_keeps_shape_and_what_the_autoencoder_does(system):
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    restored = system.reconstruct(clips)
    assert (restored.dtype, restored.shape) == (np.uint8, clips.shape)
    vae = system.pipeline.vae
    pixels = torch.from_numpy(clips[1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    expected = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    assert (restored[1] == expected).all()


# ---- files and facts --------------------------------------------------------------------------------


def test_a_saved_model_names_its_system_and_makes_the_same_clips(system, tmp_path):
    system.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "system.json").read_text()) == {"system": "latent_shift"}
    again = systems.load(tmp_path / "saved", device="cpu")
    assert (again.generate([request()]) == system.generate([request()])).all()
    assert again.info() == system.info()


def test_facts(system, folder):
    info = system.info()
    assert (info.system, info.dtype, info.device, info.licence) == ("latent_shift", "float32", "cpu", None)
    assert info.weights == weights_hash(folder)
    assert info.settings == {"scheduler": "DDIMScheduler"}
    other = systems.load(folder, device="cpu", dtype="bf16", scheduler="euler").info()
    assert (other.dtype, other.settings) == ("bfloat16", {"scheduler": "EulerDiscreteScheduler"})
    assert other.weights == info.weights


def test_the_licence_is_the_model_cards(tmp_path):
    folder = tiny_pipeline_folder(tmp_path / "model")
    for card, licence in (
        ("---\nlicense: apache-2.0  # ours\ntags: [video]\n---\n# A model\n", "apache-2.0"),
        ("---\ntags: [video]\n---\n", None),
        ("# A model\n", None),
    ):
        (folder / "README.md").write_text(card)
        assert systems.load(folder, device="cpu").info().licence == licence


def test_other_settings_are_another_configuration(system, tmp_path):
    other = tiny_pipeline_folder(tmp_path / "other", num_inference_steps=7)
    info = systems.load(other, device="cpu").info()
    assert info.config != system.info().config
    assert info.weights == system.info().weights


def test_parameters(system):
    counted = system.parameters()
    assert set(counted.parts) == {"unet", "vae", "text_encoder"}
    assert counted.all == sum(counted.parts.values())
    assert (
        counted.trained == counted.parts["unet"] == sum(p.numel() for p in system.pipeline.unet.parameters())
    )
    assert counted.temporal == 0


# ---- training ---------------------------------------------------------------------------------------


def test_stages_are_the_recipes_of_the_plan(system, tmp_path):
    assert system.stages(TrainingPlan(tmp_path)) == []
    image, video = tmp_path / "latent_shift-1-image.yaml", tmp_path / "latent_shift-2-video.yaml"
    video.write_text("task: video\npretrained_model: runs/1-image/model\n")
    image.write_text("task: image\nsteps: 100\n")
    assert system.stages(TrainingPlan(tmp_path)) == [
        Stage("latent_shift-1-image", image, "image", "images"),
        Stage("latent_shift-2-video", video, "video", "clips", "runs/1-image/model"),
    ]
    video.write_text("task: video\npretrained_model: a\ninit_from: runs/first/model\n")
    assert type(system).stages(TrainingPlan(tmp_path))[1].starts_from == "runs/first/model"


def test_stages_that_systems_share_come_first(tmp_path):
    for name, content in {
        "latent-1-text": "{task: text_contrastive, output: runs/text}",
        "latent-2-image": "{task: image, output: runs/image, text_encoder_from: runs/text/model}",
        "latent_shift-3-video": "{task: video, output: runs/a, pretrained_model: runs/image/model}",
        "latent_shift-4-more": "{task: video, output: runs/b, pretrained_model: runs/image/model,"
        " experimental: {interpolate_with: {model: runs/a/model}}}",
        "other-2-image": "{task: image, output: runs/imag}",
        "other-3": "{task: sing, output: runs/other}",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    found = LatentShift.stages(TrainingPlan(tmp_path))
    names = ["latent-1-text", "latent-2-image", "latent_shift-3-video", "latent_shift-4-more"]
    assert [stage.name for stage in found] == names
    assert [stage.trained_on for stage in found] == ["captions", "images", "clips", "clips"]


def test_a_trained_stage_becomes_a_model_of_the_system(folder, tmp_path):
    LatentShift.assemble({"1-image": tmp_path / "none", "2-video": folder}, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "system.json").read_text()) == {"system": "latent_shift"}
    assert systems.load(tmp_path / "model", device="cpu").info().weights == weights_hash(folder)


def test_a_recipe_of_no_known_task(system, tmp_path):
    (tmp_path / "latent_shift-a.yaml").write_text("task: sing\n")
    with pytest.raises(ValueError, match=r"a\.yaml: task 'sing': expected one of .*image, video"):
        system.stages(TrainingPlan(tmp_path))
