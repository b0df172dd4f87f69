"""Precomputed latents and text embeddings: a training reads the same as it would have computed."""

import shutil

import pytest
import torch

from clips import captioned_folder, write_video
from latent_shift.autoencoder import encode_frames
from latent_shift.checkpoints import load
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.conditioning import encode_prompts
from latent_shift.data.pack import pack
from latent_shift.data.precomputed import PrecomputedLatentDataset
from latent_shift.data.sources import detect_source
from latent_shift.data.video_dataset import ClipSettings, VideoDataset
from latent_shift.training.precompute import LatentEncoder, PrecomputeOptions, model_hashes
from tiny import tiny_pipeline_folder

SEEN = {"fps": 8, "height": 32, "width": 48}
SETTINGS = ClipSettings(num_frames=4, **SEEN)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline_folder(folder)
    return folder


@pytest.fixture
def clips(tmp_path):
    folder = captioned_folder(tmp_path / "clips", ["a red circle moving left\na green ring"] * 3, count=8)
    write_video(folder / "0.mp4", count=4)
    return folder


def packed(clips, model, folder, workers=1):
    encoder = LatentEncoder(PrecomputeOptions(model=str(model), **SEEN))
    list(pack(detect_source(str(clips)).read(), folder, per_shard=2, workers=workers, encoder=encoder))
    return detect_source(f"{folder}/*.tar").read()


def test_a_window_is_what_the_clip_would_have_been_encoded_to(clips, model, tmp_path):
    pipeline = load(str(model), device="cpu", dtype="fp32")
    ahead = PrecomputedLatentDataset(
        packed(clips, model, tmp_path / "shards"), SETTINGS, model_hashes(pipeline), seed=0
    )
    decoded = VideoDataset(detect_source(str(clips)).read(), SETTINGS, seed=0)
    first, plain = ahead[0], decoded[0]  # four frames: one window only
    expected = encode_frames(pipeline.vae, plain["frames"], 4)
    assert first["latents"].shape == expected.shape
    assert torch.allclose(first["latents"].float(), expected, atol=2e-3)
    embeds = encode_prompts(pipeline, (first["caption"],)).states[0]
    assert torch.allclose(first["text"].float(), embeds, atol=2e-3)
    windows = {tuple(ahead[1 + 3 * index]["latents"].flatten()[:3].tolist()) for index in range(40)}
    assert len(windows) == 5  # of eight frames
    assert {ahead[1 + 3 * index]["caption"] for index in range(40)} == {
        "a red circle moving left",
        "a green ring",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("precision_of_the_machine")
def test_several_processes_write_the_same_bytes(clips, model, tmp_path):
    packed(clips, model, tmp_path / "one")
    packed(clips, model, tmp_path / "two", workers=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "train-000001.tar" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"height": 40}, "is of height 32, not 40: pack it anew"),
        ({"fps": 4}, "is of fps 8.0, not 4"),
        ({"num_frames": 9}, "is too short: 4 frames of the 9 requested"),
    ],
)
def test_files_that_do_not_fit_are_an_error_before_any_work(clips, model, tmp_path, change, error):
    manifest = packed(clips, model, tmp_path / "shards")
    hashes = model_hashes(load(str(model), device="cpu", dtype="fp32"))
    with pytest.raises(ValueError, match=error):
        PrecomputedLatentDataset(manifest, SETTINGS.model_copy(update=change), hashes, seed=0)
    with pytest.raises(ValueError, match="has no latents beside it: pack it with --latents-of"):
        PrecomputedLatentDataset(detect_source(str(clips)).read(), SETTINGS, hashes, seed=0)


def test_one_short_clip_in_front_does_not_end_a_run(clips, model, tmp_path):
    manifest = packed(clips, model, tmp_path / "shards")
    hashes = model_hashes(load(str(model), device="cpu", dtype="fp32"))
    longer = SETTINGS.model_copy(update={"num_frames": 6, "max_bad_share": 0.5})
    ahead = PrecomputedLatentDataset(manifest, longer, hashes, seed=0)
    assert {len(ahead[index]["latents"]) for index in range(len(ahead))} == {6}


def test_a_clip_too_slow_for_the_rate_is_left_out_and_named(clips, model, tmp_path):
    write_video(clips / "2.mp4", count=8, fps=4)
    encoder = LatentEncoder(PrecomputeOptions(model=str(model), **SEEN))
    shards = list(pack(detect_source(str(clips)).read(), tmp_path / "shards", per_shard=9, encoder=encoder))
    assert list(shards[0].left_out) == ["2.mp4"]
    assert "has 4 frames a second, 8 are requested" in shards[0].left_out["2.mp4"]


def test_latents_of_another_model_are_refused(clips, model, tmp_path):
    manifest = packed(clips, model, tmp_path / "shards")
    pipeline = load(str(model), device="cpu", dtype="fp32")
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight.add_(0.1)
    with pytest.raises(ValueError, match="is of autoencoder .*, not .*: pack it anew"):
        PrecomputedLatentDataset(manifest, SETTINGS, model_hashes(pipeline), seed=0)


def test_the_commands_lead_from_clips_to_a_trained_model(clips, model, tmp_path, capsys):
    shards, recipe = tmp_path / "shards", tmp_path / "recipe.yaml"
    size = ["--fps", "8", "--height", "32", "--width", "48"]
    command = ["data", "pack", str(clips), "-o", str(shards), "--latents-of", str(model), "--workers", "1"]
    assert errors.run(app, [*command, *size]) == 0, capsys.readouterr().err
    shutil.rmtree(clips)
    recipe.write_text(
        f"""
task: video
output: {tmp_path / "run"}
pretrained_model: {model}
clips:
  source: {{format: shards, shards: "{shards}/*.tar"}}
  frames: {{num_frames: 4, fps: 8, height: 32, width: 48}}
  precomputed_latents: true
steps: 2
batch_size: 2
mixed_precision: fp32
optimizer: {{learning_rate: 0.001, warmup_steps: 0}}
"""
    )
    assert errors.run(app, ["train", str(recipe)]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "model" / "unet").is_dir()
    assert errors.run(app, ["data", "pack", str(shards), "-o", str(tmp_path / "x"), "--fps", "8"]) == 2
    assert "--fps: only for --latents-of" in capsys.readouterr().err
