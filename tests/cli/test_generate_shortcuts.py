"""`generate` with fewer passes a clip: what the file says of it, and what is refused."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from latent_shift import checkpoints, media
from program import run_program
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


def generate(capsys, model, file, *options):
    given = ("--model", model, "--seed", 1, "--steps", 6, "--dtype", "fp32", "-o", file)
    return run_program(capsys, "generate", "a red circle", *given, *options)


def test_the_settings_say_which_shortcuts_were_taken(model, tmp_path, capsys):
    whole, fewer = tmp_path / "whole.webp", tmp_path / "fewer.webp"
    assert generate(capsys, model, whole)[0] == 0
    assert not {"guidance_interval", "forecast"} & media.read_settings(whole).keys()
    status, _, said = generate(capsys, model, fewer, "--guidance-interval", "0.3,0.7", "--forecast", 0.2)
    assert (status, said) == (0, "")
    settings = media.read_settings(fewer)
    assert (settings["guidance_interval"], settings["forecast"]) == ([0.3, 0.7], 0.2)
    assert (media.read_clip(whole)[0] != media.read_clip(fewer)[0]).any()


def test_a_models_own_shortcuts(tmp_path, capsys):
    own = tiny_pipeline_folder(tmp_path / "tiny", guidance_interval=[0.2, 0.9])
    assert generate(capsys, own, tmp_path / "a.webp")[0] == 0
    assert media.read_settings(tmp_path / "a.webp")["guidance_interval"] == [0.2, 0.9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance-interval", "0.7,0.3"), "interval 0.7,0.3: give two noise levels from 0 to 1"),
        (("--guidance-interval", "all"), "--guidance-interval all: give two noise levels"),
        (("--forecast", "2"), "--forecast 2.0: give 0 to 1"),
        (("--forecast", "0.1", "--scheduler", "euler"), "not for EulerDiscreteScheduler"),
    ],
)
def test_what_is_refused(model, tmp_path, capsys, options, message):
    status, out, said = generate(capsys, model, tmp_path / "a.webp", *options)
    assert (status, out) == (2, "")
    assert message in said


def test_compiling_without_a_compiler(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, said = generate(capsys, model, tmp_path / "a.webp", "--compile", "--device", "cpu")
    assert status == 2
    assert "compiling needs a C++ compiler" in said


@pytest.mark.slow
def test_compiled_once_for_all_steps_and_sizes(model):
    pipeline, counter = checkpoints.load(model, device="cpu", dtype="fp32"), CompileCounter()
    pipeline.set_progress_bar_config(disable=True)

    def clip(steps, height, width):
        call = {"num_inference_steps": steps, "height": height, "width": width, "output_type": "pt"}
        call["num_frames"] = 7
        return pipeline("a red circle", generator=torch.Generator().manual_seed(1), **call).frames

    # The compiler takes equal sizes for one: 7 frames, latents of 8 x 10 and 3 or 12 tokens differ.
    sizes = [(3, 32, 40), (5, 40, 32), (2, 32, 32)]
    eager = [clip(*size) for size in sizes]
    torch._dynamo.reset()
    checkpoints.compile_unet(pipeline, backend=counter)
    assert all(torch.equal(clip(*size), one) for size, one in zip(sizes, eager, strict=True))
    assert counter.frame_count == 1
