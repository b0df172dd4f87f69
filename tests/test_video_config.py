"""`latent_shift.json`: in today's keys, in those of the first release, and what is refused."""

import json
import warnings

import pytest
from pydantic import ValidationError

from latent_shift import checkpoints
from latent_shift.checkpoints import DEFAULT_MODEL
from latent_shift.limits import MAX_FPS, MAX_FRAMES, MAX_GUIDANCE, MAX_SIDE, MAX_STEPS
from latent_shift.shift import ShiftOptions
from latent_shift.video_config import VideoConfig, read_video_config, write_video_config

FORMER = {
    "video_tuned": True, "num_frames": 8, "shift": True, "place": "input", "padding": "circular",
    "direction": "causal", "fold": 8, "single_frame": "shift", "distances": [3, 1],
    "noise_correlation": 0.5, "noise_persistence": 0.6, "tells_places": True, "tells_fps": True,
}  # fmt: skip
TODAY = VideoConfig(
    video_tuned=True, num_frames=8,
    shift=ShiftOptions("input", "circular", "causal", fold=8, single_frame="shift", strides=(3, 1)),
    shared_noise_ratio=0.5, progressive_noise_alpha=0.6, frame_position_embedding=True,
    append_fps_to_caption=True,
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "latent_shift.json"


@pytest.mark.parametrize("config", [VideoConfig(), TODAY, VideoConfig(shift=None)], ids=str)
def test_written_and_read_again(path, config):
    write_video_config(path, config)
    assert read_video_config(path) == config
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_keys_of_the_file_are_those_of_the_class(path):
    write_video_config(path, TODAY)
    content = json.loads(path.read_text())
    assert set(content) == set(VideoConfig.model_fields)
    assert content["shift"] == {
        "place": "input", "padding": "circular", "direction": "causal", "fold": 8,
        "single_frame": "shift", "strides": [3, 1],
    }  # fmt: skip


def test_former_keys_are_read_with_a_warning_that_names_file_and_mend(path):
    path.write_text(json.dumps(FORMER))
    with pytest.warns(UserWarning, match="keys of an earlier release") as caught:
        assert read_video_config(path) == TODAY
    (warning,) = caught
    assert str(path) in str(warning.message)
    assert "noise_correlation" in str(warning.message)
    assert "write_video_config(path, read_video_config(path))" in str(warning.message)
    assert warning.filename == __file__
    write_video_config(path, TODAY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_video_config(path) == TODAY


@pytest.mark.parametrize(
    ("former", "shift"),
    [
        ({"shift": False}, None),
        ({"shift": False, "padding": "circular"}, None),
        ({"shift": True}, ShiftOptions()),
        ({"padding": "circular"}, ShiftOptions(padding="circular")),
        ({"shift": {"fold": 4}, "distances": [2]}, ShiftOptions(fold=4, strides=(2,))),
    ],
)
def test_former_keys_of_the_shift(path, former, shift):
    path.write_text(json.dumps(former))
    with pytest.warns(UserWarning, match="earlier release"):
        assert read_video_config(path).shift == shift


def test_the_built_in_model_is_written_in_todays_keys():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = checkpoints.video_config(checkpoints.resolve(DEFAULT_MODEL))
    assert config.shift == ShiftOptions(strides=(3, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"colour": "red"}, "colour: Extra"),
        ({"shift": {"padding": "reflect"}}, "shift: .*padding='reflect' is unknown"),
        ({"shift": {"distances": [1]}}, r"shift\.distances: Unexpected"),
        ({"shift": {"strides": [20_000]}}, "shift: .*strides=.* must be at most 16384"),
        ({"shift": {"strides": []}}, "shift: .*strides"),
        ({"shift": "yes"}, "shift: "),
        ({"num_frames": 0, "eta": 2}, "num_frames: .*; eta: "),
        ({"guidance_scale": float("nan")}, "guidance_scale: "),
    ],
)
def test_what_does_not_fit_is_named(path, content, message):
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"latent_shift\.json does not fit: {message}"):
        read_video_config(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_what_is_no_object_is_named(path, text):
    path.write_text(text)
    with pytest.raises(ValueError, match=r"latent_shift\.json: (is not valid JSON|expected a JSON object)"):
        read_video_config(path)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("num_frames", MAX_FRAMES),
        ("fps", MAX_FPS),
        ("height", MAX_SIDE),
        ("num_inference_steps", MAX_STEPS),
        ("guidance_scale", MAX_GUIDANCE),
    ],
)
def test_the_limits_hold(name, limit):
    assert getattr(VideoConfig(**{name: limit}), name) == limit
    with pytest.raises(ValidationError, match=name):
        VideoConfig(**{name: limit + 1})
    with pytest.raises(ValueError, match=f"{name}="):
        VideoConfig().overlaid(**{name: limit + 1})


def test_overlaid_values_that_are_none_keep_the_models_own():
    assert TODAY.overlaid(num_frames=None, eta=0.5) == TODAY.model_copy(update={"eta": 0.5})
