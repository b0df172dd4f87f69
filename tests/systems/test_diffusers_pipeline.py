"""Pipelines of diffusers as systems: tiny random ones, saved and loaded."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny_video
from latent_shift import systems
from latent_shift.checkpoints import resolve
from latent_shift.io import write_json
from latent_shift.systems.base import GenerationRequest, TrainingPlan
from latent_shift.systems.diffusers_folder import read_defaults
from latent_shift.systems.diffusers_pipeline import DiffusersPipeline, to_uint8
from tiny import tiny_pipeline_folder

VALUES = {
    "animatediff": {"frames": 4},
    "text_to_video_sd": {"frames": 4},
    "cogvideox": {"frames": 9},
    "wan": {"frames": 5, "height": 32, "width": 32},
    "ltx": {"frames": 9, "height": 32, "width": 32},
}
DEFAULTS = {  # frames, fps, steps, guidance, height, width
    "animatediff": (16, 8.0, 50, 7.5, 32, 32),
    "text_to_video_sd": (16, 8.0, 50, 9.0, 32, 32),
    "cogvideox": (17, 8.0, 50, 6.0, 16, 16),
    "wan": (81, 8.0, 50, 5.0, 480, 832),
    "ltx": (161, 25.0, 50, 3.0, 512, 704),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder by name, each saved once."""
    root, saved = tmp_path_factory.mktemp("pipelines"), {}

    def folder(name):
        if name not in saved:
            saved[name] = root / name
            getattr(tiny_video, f"tiny_{name}")().save_pretrained(saved[name])
        return saved[name]

    return folder


@pytest.fixture(scope="module")
def load(folders):
    """System by name, each loaded once."""
    loaded = {}

    def system(name):
        if name not in loaded:
            loaded[name] = systems.load(f"diffusers_pipeline:{folders(name)}", device="cpu")
        return loaded[name]

    return system


def requests(name, count=2, **values):
    values = {"steps": 2, "guidance": 3.0, **VALUES[name], **values}
    return [GenerationRequest(prompt="a red circle", seed=seed, **values) for seed in range(count)]


@pytest.mark.parametrize("name", VALUES)
def test_clips_of_every_pipeline_depend_on_their_own_request(load, name):
    system, steps = load(name), []
    clips = system.generate(requests(name), lambda done, of: steps.append((done, of)))
    side = VALUES[name].get("height", DEFAULTS[name][4])
    assert (clips.dtype, clips.shape) == (np.uint8, (2, VALUES[name]["frames"], side, side, 3))
    assert steps == [(1, 2), (2, 2)]
    assert (clips[0] != clips[1]).any()
    alone = np.concatenate([system.generate([one]) for one in requests(name)])
    assert np.abs(alone.astype(int) - clips).max() <= 1  # batches round otherwise


@pytest.mark.parametrize("name", VALUES)
def test_defaults_are_the_calls_and_known_before_weights_are_read(folders, load, name):
    defaults = systems.inspect(f"diffusers_pipeline:{folders(name)}")
    found = (
        defaults.frames,
        defaults.fps,
        defaults.steps,
        defaults.guidance,
        defaults.height,
        defaults.width,
    )
    assert found == DEFAULTS[name]
    assert load(name).info().defaults == defaults


def test_clips_are_the_pipelines_own(load, folders):
    system = load("cogvideox")
    expected = system.pipeline(
        "a red circle", negative_prompt="green", num_frames=9, num_inference_steps=2, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).frames  # fmt: skip
    made = system.generate(requests("cogvideox", 1, negative="green"))
    assert (made == (expected * 255).round().astype(np.uint8)).all()


def test_values_left_open_are_the_pipelines(load):
    request = GenerationRequest(prompt="a red circle", seed=0, steps=1)
    settled = load("cogvideox").info().defaults.settle(request)
    assert load("cogvideox").generate([request]).shape == (1, 17, 16, 16, 3)
    assert (load("cogvideox").generate([settled]) == load("cogvideox").generate([request])).all()
    # Frames of which the call's own default is None are named; it might take others.
    assert load("cogvideox")._options(settled) == {"num_inference_steps": 1, "num_frames": 17}
    assert load("wan")._options(load("wan").info().defaults.settle(request)) == {"num_inference_steps": 1}


def test_an_image_pipeline_makes_single_frames(tmp_path):
    folder = tiny_pipeline_folder(tmp_path / "image", latent_shift=False)
    system = systems.load(f"diffusers_pipeline:{folder}", device="cpu")
    wanted = [GenerationRequest(prompt="a red circle", seed=seed, steps=2) for seed in range(2)]
    assert system.info().defaults.frames == 1
    assert system.generate(wanted).shape == (2, 1, 32, 32, 3)
    with pytest.raises(ValueError, match="frames 4: StableDiffusionPipeline takes no num_frames"):
        system.generate([GenerationRequest(prompt="a red circle", frames=4)])


def test_one_clip_a_call_where_the_pipeline_takes_no_list(load, monkeypatch):
    system = load("animatediff")
    together, steps = system.generate(requests("animatediff", negative="green")), []
    annotated = system._parameters["prompt"].replace(annotation=str)
    monkeypatch.setattr(system, "_parameters", {**system._parameters, "prompt": annotated})
    one_by_one = system.generate(
        requests("animatediff", negative="green"), lambda done, of: steps.append((done, of))
    )
    assert np.abs(together.astype(int) - one_by_one).max() <= 1
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("wan", {"frames": 6}, "frames 6: this model makes 1, 5, 9 .*; for example 5 or 9"),
        ("ltx", {"frames": 4}, "frames 4: this model makes 1, 9, 17 .*; for example 1 or 9"),
        ("cogvideox", {"frames": 5}, "frames 5: this model made 8; give a number that it can make"),
        ("animatediff", {"height": 30}, "divisible by 8"),
        (
            "animatediff",
            {"frames": 40},
            "AnimateDiffPipeline cannot make frames 40, steps 2: .*size of tensor",
        ),
        ("wan", {"loop": True}, "loop: this model makes no loops"),
    ],
)
def test_requests_that_cannot_be_met(load, name, values, message):
    with pytest.raises(ValueError, match=message):
        load(name).generate(requests(name, **values))


@pytest.mark.parametrize(
    ("kind", "denoiser", "autoencoder", "frames"),
    [
        ("SanaVideoPipeline", {}, {}, 81),  # by the call, as `frames`
        ("AllegroPipeline", {"sample_frames": 22}, {"temporal_compression_ratio": 4}, 88),
        ("CogVideoXPipeline", {"sample_frames": 49}, {"temporal_compression_ratio": 4}, 49),
        ("LTX2Pipeline", {}, {}, 121),
    ],
)
def test_the_number_of_frames_that_a_call_takes_by_itself(tmp_path, kind, denoiser, autoencoder, frames):
    write_json(tmp_path / "model_index.json", {"_class_name": kind})
    write_json(tmp_path / "transformer" / "config.json", denoiser)
    write_json(tmp_path / "vae" / "config.json", autoencoder)
    assert read_defaults(tmp_path).frames == frames


def test_a_pipeline_whose_first_argument_is_not_the_prompt(folders, tmp_path):
    folder = shutil.copytree(folders("ltx"), tmp_path / "conditions")
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": "LTXConditionPipeline"})
    system = systems.load(f"diffusers_pipeline:{folder}", device="cpu")
    assert system.generate(requests("ltx", 1)).shape == (1, 9, 32, 32, 3)


def test_an_exception_of_the_caller_ends_the_call_as_it_is(load):
    class StoppedError(RuntimeError):
        pass

    def stop(done, of):
        raise StoppedError(done)

    with pytest.raises(StoppedError, match="1"):
        load("animatediff").generate(requests("animatediff"), stop)


def test_batches_that_are_none(load):
    with pytest.raises(ValueError, match="at least one request"):
        load("wan").generate([])
    with pytest.raises(ValueError, match="of one shape"):
        load("wan").generate([*requests("wan", 1), *requests("wan", 1, steps=3)])


# ---- outputs ----------------------------------------------------------------------------------------


def test_frames_of_every_kind_become_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6, 3), dtype=np.uint8)
    shares = pixels / np.float32(255)
    images = [[Image.fromarray(frame) for frame in clip] for clip in pixels]
    tensor = torch.from_numpy(shares).permute(0, 1, 4, 2, 3)
    for frames in (pixels, shares, images, tensor, list(tensor), list(shares), tensor.bfloat16().float()):
        made = to_uint8(frames)
        assert (made.dtype, made.shape) == (np.uint8, pixels.shape)
        assert np.abs(made.astype(int) - pixels).max() <= 1
    assert (to_uint8(images[0]) == pixels[0]).all()
    assert (to_uint8(np.array([[[[[-1.0, 0.5, 2.0]]]]])) == [0, 128, 255]).all()
    with pytest.raises(ValueError, match="not finite; try the dtype fp32"):
        to_uint8(np.full((1, 1, 2, 2, 3), np.nan))


def test_reconstruction_is_the_image_autoencoders_or_none(load):
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    assert load("animatediff").reconstruct(clips).shape == clips.shape
    assert load("wan").reconstruct(clips) is None


# ---- counts and facts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("animatediff", {"vae", "text_encoder", "unet"}),  # the U-Net holds the motion adapter's weights
        ("text_to_video_sd", {"vae", "text_encoder", "unet"}),
        ("wan", {"vae", "text_encoder", "transformer"}),
    ],
)
def test_parameters_by_module(load, name, parts):
    counted = load(name).parameters()
    assert set(counted.parts) == parts
    assert counted.trained == 0
    pipeline = load(name).pipeline
    for part in parts:
        assert counted.parts[part] == sum(one.numel() for one in getattr(pipeline, part).parameters())


def test_parameters_of_the_layers_for_time(load):
    adapter = sum(one.numel() for one in load("animatediff").pipeline.motion_adapter.parameters())
    assert load("animatediff").parameters().temporal == adapter
    assert 0 < load("text_to_video_sd").parameters().temporal < load("text_to_video_sd").parameters().all
    assert load("wan").parameters().temporal == 0


def test_it_cannot_be_trained(tmp_path):
    (tmp_path / "diffusers_pipeline-1.yaml").write_text("task: video\noutput: runs/a\n")
    assert DiffusersPipeline.stages(TrainingPlan(tmp_path)) == []


def test_a_saved_pipeline_names_its_system(load, folders, tmp_path):
    load("wan").save(tmp_path / "saved")
    again = systems.load(tmp_path / "saved", device="cpu")
    assert isinstance(again, DiffusersPipeline)
    assert (again.generate(requests("wan")) == load("wan").generate(requests("wan"))).all()
    assert again.info().weights == load("wan").info().weights
    info = again.info()
    assert (info.system, info.dtype, info.device, info.licence) == (
        "diffusers_pipeline",
        "float32",
        "cpu",
        None,
    )
    assert info.settings == {"pipeline": "WanPipeline", "scheduler": "FlowMatchEulerDiscreteScheduler"}
    assert systems.load(f"diffusers_pipeline:{folders('wan')}", dtype="bf16").info().dtype == "bfloat16"


# ---- files that are not loaded ----------------------------------------------------------------------


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of a pipeline's folder, for a test to break, and a function that changes its index."""
    folder = shutil.copytree(folders("wan"), tmp_path / "broken")

    def change(**values):
        index = folder / "model_index.json"
        index.write_text(json.dumps({**json.loads(index.read_text()), **values}))

    return folder, change


def refused(folder, message, **options):
    for call in (systems.inspect, systems.load):
        with pytest.raises(ValueError, match=message):
            call(f"diffusers_pipeline:{folder}", **options)


def test_pickles_are_never_read(broken):
    folder, _ = broken
    (weights,) = (folder / "transformer").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    refused(
        folder, "diffusion_pytorch_model.bin: is a pickle, which is never read; convert it to safetensors"
    )


def test_remote_code_is_never_run(broken):
    folder, change = broken
    (folder / "transformer" / "mine.py").write_text("raise SystemExit('run')")
    change(transformer=["mine", "WanTransformer3DModel"])
    refused(folder, "transformer comes from 'mine', and remote code is never run")
    change(transformer=["diffusers", "WanTransformer3DModel"], _class_name=["mine", "Pipeline"])
    refused(folder, r"_class_name \['mine', 'Pipeline'\]: .*has no such pipeline")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("WanImageToVideoPipeline", "WanImageToVideoPipeline needs image, which a sentence does not give"),
        ("DDPMPipeline", "DDPMPipeline takes no prompt, so it makes no clips of sentences"),
    ],
)
def test_pipelines_that_are_not_of_text_to_video(broken, kind, message):
    folder, change = broken
    change(_class_name=kind)
    refused(folder, message)


def test_damaged_and_missing_files(broken, tmp_path):
    folder, change = broken
    (weights,) = (folder / "vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(folder, "is no safetensors file, or is truncated")
    weights.unlink()
    with pytest.raises(ValueError, match="cannot be loaded: .*vae"):
        systems.load(f"diffusers_pipeline:{folder}")
    change(_class_name="AutoencoderKL")
    refused(folder, "_class_name 'AutoencoderKL': this version")
    refused(tmp_path, "model_index.json: is missing")


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_networks_that_lack_weights_or_hold_whole_numbers(broken, part):
    """The libraries would draw what is missing at random, or fail at the first step."""
    folder, _ = broken
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    with pytest.raises(ValueError, match=f"{part}/.*: lacks 1 of the .* weights of a .*, the first {lost}"):
        systems.load(f"diffusers_pipeline:{folder}")
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, file)
    with pytest.raises(ValueError, match=f"{part}/.*weights are I8, whole numbers without their scales"):
        systems.load(f"diffusers_pipeline:{folder}")


@pytest.mark.parametrize("part", ["tokenizer", "scheduler"])
def test_parts_that_only_the_index_has(broken, part):
    folder, _ = broken
    shutil.rmtree(folder / part)
    refused(folder, f"model_index.json: names the part {part}, and there is no such folder")


def test_schedulers_of_another_family_and_parts_without_a_class(broken):
    folder, change = broken
    change(scheduler=["diffusers", "DDIMScheduler"])
    scheduler = folder / "scheduler" / "scheduler_config.json"
    kept = scheduler.read_text()
    scheduler.write_text('{"_class_name": "DDIMScheduler"}')
    refused(folder, "its scheduler is a DDIMScheduler; WanPipeline samples by flow matching")
    scheduler.write_text('{"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true}')
    change(scheduler=["diffusers", "UniPCMultistepScheduler"])
    systems.inspect(f"diffusers_pipeline:{folder}")
    scheduler.write_text(kept)
    change(vae=["diffusers", None])
    refused(folder, "vae is .*; expected its library and class")


def test_flow_matching_in_a_pipeline_of_noise(folders, tmp_path):
    folder = shutil.copytree(folders("animatediff"), tmp_path / "broken")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    refused(folder, "AnimateDiffPipeline samples by a schedule of noise")


def test_a_tokenizer_without_words(broken):
    folder, _ = broken
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text()[:-9])
    refused(folder, r"tokenizer_config\.json: is not valid JSON")
    config.write_text("{}")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    refused(folder, "tokenizer: has neither tokenizer.json nor vocab.json")


def test_a_hub_id_is_not_downloaded_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    refused("nobody/nothing", "nobody/nothing: there is no such folder, and the hub's cache does not hold it")


def test_lora_files_are_refused(folders):
    refused(folders("wan"), "loras a.safetensors: diffusers_pipeline takes none", loras=["a.safetensors"])


def test_a_prefix_names_the_system_of_a_model(folders):
    assert systems.find(f"diffusers_pipeline:{folders('wan')}") is DiffusersPipeline
    assert systems.find("latent_shift:moving-shapes").name == "latent_shift"
    assert systems.inspect("latent_shift:moving-shapes") == systems.inspect(resolve("moving-shapes"))
    assert systems.find("other:org/name").name == "latent_shift"
