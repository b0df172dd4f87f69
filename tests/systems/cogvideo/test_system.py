"""CogVideo as a system: requests in, clips out; stages by length and rate; files, facts and counts."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latent_shift import systems
from latent_shift.systems.base import GenerationRequest
from latent_shift.systems.cogvideo.clips import Plan, longest_clips, plan_clip, tokens_in_turn
from latent_shift.systems.cogvideo.model import ModelConfig
from latent_shift.systems.cogvideo.temporal_attention import ChannelConfig
from latent_shift.systems.cogvideo.transformer import TransformerConfig

KEYS = ChannelConfig(num_frames=6, frame_rates=(8 / 3,))
BETWEEN = ChannelConfig(num_frames=4, frame_rates=(8.0,), known=(0, 3))
PROMPTS = (
    "a red star moving left on a navy background",
    "a white heart growing",
    "a ring",
    "a cross spinning",
)


def request(prompt="a red circle", seed=1, **values):
    return GenerationRequest(prompt=prompt, seed=seed, **values)


def config(key_frames=KEYS, interpolation=None):
    return ModelConfig(
        transformer=TransformerConfig(), height=64, width=64, scale=8, key_frames=key_frames,
        interpolation=interpolation,
    )  # fmt: skip


@pytest.fixture(scope="module")
def system(trained):
    return systems.load(trained / "interpolation" / "model", device="cpu")


# ---- stages of a clip --------------------------------------------------------------------------------


def test_key_frames_then_frames_between_them():
    both = config(interpolation=BETWEEN)
    assert longest_clips(config()) == pytest.approx({8 / 3: 6})
    assert longest_clips(both) == pytest.approx({8 / 3: 6, 8.0: 16})
    assert plan_clip(both, 16, 8.0) == Plan(6, pytest.approx(8 / 3), (5,))
    assert plan_clip(both, 6, 8 / 3) == Plan(6, pytest.approx(8 / 3))
    assert plan_clip(both, 5, 8.0) == Plan(3, pytest.approx(8 / 3), (2,))
    assert plan_clip(both, 2, 2.67) == Plan(2, pytest.approx(8 / 3))
    assert tokens_in_turn(both, 16, 8.0) == (6 + 2) * 64
    assert tokens_in_turn(both, 1, 5.0) == 64


def test_the_papers_halving():
    keys = ChannelConfig(num_frames=5, frame_rates=(1.0, 2.0, 4.0))
    between = ChannelConfig(num_frames=5, frame_rates=(2.0, 4.0, 8.0), known=(0, 2, 4))
    papers = config(keys, between)
    assert longest_clips(papers) == {1.0: 5, 2.0: 9, 4.0: 17, 8.0: 33}
    assert plan_clip(papers, 33, 8.0) == Plan(5, 1.0, (2, 4, 8))
    assert plan_clip(papers, 17, 4.0) == Plan(5, 1.0, (2, 4))
    assert plan_clip(papers, 9, 8.0) == Plan(3, 1.0, (1, 1, 2))  # the lowest rate of key frames
    assert plan_clip(papers, 5, 2.0) == Plan(3, 1.0, (1,))


@pytest.mark.parametrize(
    ("made", "frames", "fps", "message"),
    [
        (config(), 7, 8 / 3, r"7 frames at 2.667 fps: this model makes up to 6 at 2.667 fps$"),
        (config(), 6, 8.0, "6 frames at 8 fps: this model makes up to 6 at 2.667 fps"),
        (config(interpolation=BETWEEN), 17, 8.0, "up to 6 at 2.667 fps, 16 at 8 fps"),
        (config(interpolation=BETWEEN), 6, 5.0, "6 frames at 5 fps: this model makes"),
        (config(key_frames=None), 6, 8.0, "no stage for clips yet; it makes images, 1 frame"),
    ],
)
def test_clips_that_no_stage_makes(made, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        plan_clip(made, frames, fps)


# ---- clips -------------------------------------------------------------------------------------------


def test_a_clip_a_request(system):
    clips = system.generate([request(frames=2), request("a green square", 2, frames=2)])
    assert (clips.dtype, clips.shape) == (np.uint8, (2, 2, 64, 64, 3))
    assert (clips[0] != clips[1]).any()
    assert system.generate([request()]).shape == (1, 16, 64, 64, 3)
    assert system.generate([request(frames=3, fps=8 / 3)]).shape == (1, 3, 64, 64, 3)
    assert system.generate([request(frames=1)]).shape == (1, 1, 64, 64, 3)


def test_a_clip_is_its_requests_own(system):
    requests = [
        request(prompt, seed, frames=2, fps=8 / 3, negative="blue") for seed, prompt in enumerate(PROMPTS)
    ]
    together = system.generate(requests)
    assert (together == np.concatenate([system.generate([one]) for one in requests])).all()
    assert (together[0] != system.generate([requests[0].model_copy(update={"seed": 9})])[0]).any()
    other = requests[0].model_copy(update={"negative": None})
    assert (together[0] != system.generate([other])[0]).any()


def test_frames_between_are_added_to_the_same_key_frames(system):
    keys = system.generate([request(seed=4, frames=3, fps=8 / 3)])
    whole = system.generate([request(seed=4, frames=7, fps=8.0)])
    assert np.abs(whole[:, ::3].astype(int) - keys).max() <= 1  # more frames are decoded by another kernel


def test_guidance_changes_the_clip_and_steps_are_told(system):
    seen = []
    plain = system.generate([request(frames=4, fps=8.0, guidance=1.0)], lambda *done: seen.append(done))
    assert (plain != system.generate([request(frames=4, fps=8.0, guidance=9.0)])).any()
    assert seen == [(step, 256) for step in range(1, 257)]  # two key frames, two between them

    def stop(done, of):
        raise InterruptedError(done)

    with pytest.raises(InterruptedError, match="1"):
        system.generate([request()], stop)


def test_guidance_of_one_or_less_is_none(system):
    plain, none = (system.generate([request(frames=1, guidance=scale)]) for scale in (1.0, 0.0))
    assert (plain == none).all()
    with pytest.warns(UserWarning, match="the negative prompt has no effect, for guidance is 0"):
        system.generate([request(frames=1, guidance=0.0, negative="a green square")])


def test_the_image_model_may_make_the_first_frame(system, tmp_path):
    system.save(tmp_path / "papers")
    file = tmp_path / "papers" / "cogvideo.json"
    content = json.loads(file.read_text())
    content["key_frames"]["first_frame"] = False
    file.write_text(json.dumps(content))
    papers = systems.load(tmp_path / "papers", device="cpu")
    clip = papers.generate([request(seed=3, frames=2, fps=8 / 3)])
    image = system.generate([request(seed=3, frames=1)]).astype(int)
    assert np.abs(clip[:, :1] - image).max() <= 1  # more frames are decoded by another kernel


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "at least one request"),
        ([request(), request(frames=2)], "of one shape"),
        ([request(height=128)], "height 128: this model makes 64x64 pixels only"),
        ([request(width=60)], "width 60: this model makes multiples of 64"),
        ([request(steps=20)], "steps 20: this model writes tokens, one after the other; leave steps out"),
        ([request(frames=17)], "17 frames at 8 fps: this model makes up to 6 at 2.667 fps, 16 at 8 fps"),
        ([request("qwertz")], "knows no word of 'qwertz'"),
        ([request(loop=True)], "loop: this model makes no loops"),
    ],
)
def test_requests_that_cannot_be_met(system, requests, message):
    with pytest.raises(ValueError, match=message):
        system.generate(requests)


def test_unknown_words_are_left_out_with_a_warning(system):
    with pytest.warns(UserWarning, match="does not know 'splendid'"):
        odd = system.generate([request("a splendid red circle", frames=1)])
    assert (odd == system.generate([request("a red circle", frames=1)])).all()


def test_reconstruction_is_by_tokens(system):
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    restored = system.reconstruct(clips)
    assert (restored.dtype, restored.shape) == (np.uint8, clips.shape)
    tokenizer = system.model.frame_tokenizer
    expected = tokenizer.decode(tokenizer.encode(torch.from_numpy(clips[1])))
    assert (restored[1] == expected.numpy()).all()
    assert len(np.unique(restored[0, 0].reshape(-1, 3), axis=0)) > 1


# ---- files and facts ---------------------------------------------------------------------------------


def test_a_saved_model_is_the_same(system, tmp_path):
    system.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "system.json").read_text()) == {"system": "cogvideo"}
    again = systems.load(tmp_path / "saved", device="cpu")
    wanted = request(frames=2, fps=8.0)
    assert (again.generate([wanted]) == system.generate([wanted])).all()
    facts = system.info()
    assert (again.info().weights, again.info().config) == (facts.weights, facts.config)


def test_facts(system, trained):
    info = system.info()
    assert (info.system, info.dtype, info.device, info.licence) == ("cogvideo", "float32", "cpu", "other")
    assert info.settings == {"temperature": 0.7, "top_k": 100}
    defaults = info.defaults
    assert (defaults.frames, defaults.fps, defaults.steps, defaults.guidance) == (16, 8.0, 512, 3.0)
    assert (defaults.height, defaults.width, defaults.size_multiple) == (64, 64, 64)
    assert "moving" in defaults.vocabulary
    assert systems.inspect(trained / "interpolation" / "model") == defaults
    keys = systems.inspect(trained / "key_frames" / "model")
    assert (keys.frames, keys.fps, keys.steps) == (6, pytest.approx(8 / 3), 384)
    assert systems.inspect(trained / "image" / "model").frames == 1


def test_a_model_in_half_precision(trained):
    half = systems.load(trained / "interpolation" / "model", device="cpu", dtype="bf16")
    assert half.info().dtype == "bfloat16"
    assert half.model.frame_tokenizer.codes.dtype == torch.float32
    assert half.generate([request(frames=2, fps=8.0)]).shape == (1, 2, 64, 64, 3)


def test_parameters(system):
    counted = system.parameters()
    model = system.model
    channels = sum(tensor.numel() for tensor in model.channels.parameters())
    assert set(counted.parts) == {
        "frame_tokenizer", "text_encoder", "transformer", "key_frames", "interpolation"
    }  # fmt: skip
    assert counted.all == sum(tensor.numel() for tensor in model.parameters())
    assert counted.trained == counted.temporal == channels


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("key_frames.safetensors", "key_frames.safetensors: there is no such file"),
        ("inputs.safetensors", "inputs.safetensors: there is no such file"),
        ("transformer/model.safetensors", "transformer: has no .safetensors file"),
        ("frame_tokenizer/quantizer.safetensors", "quantizer.safetensors: there is no such file"),
        ("cogvideo.json", "cogvideo.json: is missing"),
    ],
)
def test_damaged_folders(system, tmp_path, missing, message):
    system.save(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    for call in (systems.inspect, systems.load):
        with pytest.raises(ValueError, match=message):
            call(tmp_path / "model")


@pytest.mark.parametrize("part", ["transformer/model", "frame_tokenizer/diffusion_pytorch_model"])
def test_networks_that_lack_weights(system, tmp_path, part):
    """The libraries would draw them at random, and without a config a network of any size."""
    system.save(tmp_path)
    file = tmp_path / f"{part}.safetensors"
    save_file(dict(sorted(load_file(file).items())[1:]), file)
    with pytest.raises(ValueError, match=rf"{part}\.safetensors: lacks 1 of the"):
        systems.load(tmp_path)
    (file.parent / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: is missing"):
        systems.load(tmp_path)


def test_settings_are_checked(system, tmp_path):
    system.save(tmp_path)
    (tmp_path / "cogvideo.json").write_text('{"height": 64, "widht": 64}')
    with pytest.raises(ValueError, match=r"cogvideo\.json: widht: unknown key"):
        systems.inspect(tmp_path)


def test_lora_files_are_refused(trained):
    with pytest.raises(ValueError, match=r"lora a\.safetensors: models of the system cogvideo take no LoRA"):
        systems.load(trained / "image" / "model", loras=["a.safetensors"])
