"""From a name to a model, on tiny real folders: what loads, and what is told about folders that cannot."""

import json
import os
import shutil

import pytest
import torch

from latent_shift import LatentShiftPipeline, checkpoints, hashes
from latent_shift.checkpoints.resolve import PARTS, WEIGHTED_PARTS
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def weights(folder, part):
    return next((folder / part).glob("*.safetensors"))


def test_a_folder_loads_with_its_settings_onto_the_cpu_in_full_precision(model):
    pipeline = checkpoints.load(str(model), device="cpu")
    assert type(pipeline).__name__ == "LatentShiftPipeline"
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    assert pipeline.video_config == checkpoints.video_config(model)
    assert checkpoints.video_config(model).video_tuned


def test_half_precision_on_a_cpu_only_if_asked(model):
    assert checkpoints.load(model, device="cpu", dtype="bf16").unet.dtype == torch.bfloat16
    assert checkpoints.choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert checkpoints.choose_dtype("auto", torch.device("mps")) == torch.float16


def test_a_folder_with_half_precision_files_alone_loads(copy):
    plain = checkpoints.weights_hash(copy)
    for part in ("unet", "vae", "text_encoder"):
        file = weights(copy, part)
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert checkpoints.load(copy, device="cpu").unet.dtype == torch.float32
    assert checkpoints.weights_hash(copy) != plain


def test_an_image_model_without_a_video_config_loads(copy):
    (copy / "latent_shift.json").unlink()
    assert not checkpoints.load(copy, device="cpu").video_config.video_tuned


def test_a_dangling_link_to_the_video_config_is_named(copy):
    (copy / "latent_shift.json").rename(copy / "elsewhere")
    (copy / "latent_shift.json").symlink_to(copy / "nowhere")
    for load in (
        lambda: checkpoints.load(copy, device="cpu"),
        lambda: LatentShiftPipeline.from_pretrained(copy),
    ):
        with pytest.raises(ValueError, match=r"latent_shift\.json: is missing"):
            load()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_missing_part_or_its_weights_are_named_to_python(copy, part):
    for file in copy.glob(f"{part}/*.safetensors"):
        file.unlink()
        with pytest.raises(ValueError, match=f"{part}: has no .safetensors file"):
            LatentShiftPipeline.from_pretrained(copy)
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=f"{part}: is missing, or has no config"):
        LatentShiftPipeline.from_pretrained(copy)


def test_the_hash_is_of_the_weights_alone(model, copy):
    before = checkpoints.weights_hash(model)
    assert len(before) == 12
    assert checkpoints.weights_hash(copy) == before
    (copy / "README.md").write_text("hello")
    assert checkpoints.weights_hash(copy) == before
    file = weights(copy, "vae")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert checkpoints.weights_hash(copy) != before


def test_weights_are_hashed_once_while_a_file_stays_the_same(copy):
    """By its inode, size and time; a model of gigabytes is not read again for each clip."""
    file = weights(copy, "vae")
    first, state = checkpoints.weights_hash(copy), file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert checkpoints.weights_hash(copy) == first
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert checkpoints.weights_hash(copy) != first


def test_hashes_of_large_files_outlive_the_process(tmp_path, monkeypatch):
    file, cache = tmp_path / "model.safetensors", tmp_path / "cache"
    file.write_bytes(b"weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(hashes, "_LARGE", 4)
    expected = hashes.file_sha256(file)
    assert hashes.remembered_sha256(file) == expected
    (kept,) = (cache / "latent-shift" / "sha256").iterdir()
    hashes._remembered_sha256.cache_clear()
    kept.write_text(kept.read_text().replace(expected, "0" * 64))
    assert hashes.remembered_sha256(file) == "0" * 64  # from the cache
    hashes._remembered_sha256.cache_clear()
    kept.write_text("damaged")
    assert hashes.remembered_sha256(file) == expected
    file.write_bytes(b"other weights")
    assert hashes.remembered_sha256(file) == hashes.file_sha256(file) != expected


def test_the_size_of_a_latent_pixel_comes_from_the_autoencoder(model):
    assert checkpoints.pixel_multiple(model) == 4


@pytest.mark.parametrize("name", checkpoints.SCHEDULERS)
def test_every_scheduler_samples_and_keeps_the_noise_schedule(model, name):
    pipeline = checkpoints.load(model, device="cpu")
    betas = pipeline.scheduler.config.beta_end
    checkpoints.use_scheduler(pipeline, name)
    assert type(pipeline.scheduler).__name__ == checkpoints.SCHEDULERS[name]
    assert pipeline.scheduler.config.beta_end == betas
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline("a red circle", num_frames=2, num_inference_steps=2, output_type="np").frames
    assert frames.shape[:2] == (1, 2)


def test_an_unknown_scheduler_lists_the_known(model):
    with pytest.raises(ValueError, match=r"'plms': expected one of ddim, .*unipc"):
        checkpoints.use_scheduler(checkpoints.load(model, device="cpu"), "plms")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nosuch",
            "unknown model; known are 'moving-shapes', 'emoji', a folder in the",
        ),
        ("", "unknown model"),
        ("/no/such/folder", "unknown model"),
        ("../nowhere", "unknown model"),
    ],
)
def test_unknown_names_list_what_is_known(name, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.resolve(name)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"has no model_index\.json; expected a folder"):
        checkpoints.resolve(str(tmp_path))


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=f"the model's {part} is missing"):
        checkpoints.resolve(str(copy))


@pytest.mark.parametrize("part", WEIGHTED_PARTS)
@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_named(copy, part, kept):
    file = weights(copy, part)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=rf"{part}/{file.name}: is no safetensors file, or is truncated or damaged"
    ):
        checkpoints.resolve(str(copy))


def test_pickled_weights_are_never_read(copy):
    file = weights(copy, "unet")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"unet: has no \.safetensors file; its pickled \.bin weights"):
        checkpoints.resolve(str(copy))


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_broken_configs_are_named(copy, name, text):
    (copy / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: (is not valid JSON|expected a JSON object)"):
        checkpoints.resolve(str(copy))


def test_another_layout_is_told_apart(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    }
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is a StableDiffusion3Pipeline, which has other parts"):
        checkpoints.resolve(str(copy))


def test_parts_that_do_not_fit_their_weights_are_one_line(copy):
    config = json.loads((copy / "unet/config.json").read_text())
    config["cross_attention_dim"] = 32
    (copy / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        checkpoints.load(copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_devices_and_dtypes_are_checked():
    with pytest.raises(ValueError, match="expected one of auto, cpu, cuda, mps"):
        checkpoints.choose_device("tpu")
    with pytest.raises(ValueError, match="expected one of auto, fp32, bf16, fp16"):
        checkpoints.choose_dtype("fp8", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda: torch finds none"):
            checkpoints.choose_device("cuda")
