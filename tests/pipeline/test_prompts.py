"""Prompts of a closed vocabulary: what is known passes untouched, the rest is left out and named."""

import inspect
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline

from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.prompts import has_closed_vocabulary, keep_known_words
from latent_shift.video_config import read_video_config
from tiny import WORDS, tiny_components, tiny_pipeline_folder, tiny_tokenizer, tiny_unet
from tiny_xl import tiny_xl_folder

ONE = {"num_frames": 1, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}


@pytest.mark.parametrize("prompt", ["a red circle", "A  RED circle\tmoves left ", "", "a", "right to left"])
def test_known_words_pass_untouched(prompt):
    assert keep_known_words(prompt, WORDS) == (prompt, [])


@pytest.mark.parametrize(
    ("prompt", "kept", "unknown"),
    [
        ("a red, green circle!", "a red green circle", []),
        ("a tiny red frog, a tiny frog", "a red a", ["tiny", "frog"]),
        ("left-to-right", "left to right", []),
        ("a 12 circle", "a circle", ["1", "2"]),
        ("gr", "", ["gr"]),  # a piece of known words, but no word
        ("a _red_ circle", "a red circle", []),
        ("Ein roter Kreis на a", "a", ["Ein", "roter", "Kreis", "на"]),
        ("!?", "", []),
        ("a red 🚀 moves left", "a red moves left", ["🚀"]),
        ("a ❤️ on a circle", "a on a circle", ["❤️"]),
        ("a red ◼️ moves ↔️ left‼️", "a red moves left", ["◼️", "↔️", "‼️"]),
    ],
)
def test_the_rest_is_left_out_and_words_are_named(prompt, kept, unknown):
    assert keep_known_words(prompt, WORDS) == (kept, unknown)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("closed") / "model", closed_vocabulary=WORDS)


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = LatentShiftPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image(pipeline, prompt, **more):
    return pipeline(prompt, generator=torch.Generator().manual_seed(0), **ONE, **more).frames


def test_unknown_words_are_ignored_by_name(pipeline):
    with pytest.warns(
        UserWarning, match=r"^the model does not know 'tiny', 'Frog' of 'a tiny Frog\.': ignored$"
    ):
        mixed = image(pipeline, "a tiny Frog.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert (mixed == image(pipeline, "a")).all()
        assert (image(pipeline, "a red, green circle!") == image(pipeline, "a red green circle")).all()


@pytest.mark.parametrize("prompts", ["a tiny circle", ["a circle", "a tiny circle"]])
def test_warnings_point_at_the_line_that_called_the_pipeline(pipeline, prompts):
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(UserWarning, match="does not know 'tiny'") as caught:
        pipeline(prompts, **ONE)
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]


def test_all_warnings_of_an_image_model_point_at_the_line_that_called_it(tmp_path):
    image_model = LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path, latent_shift=False))
    image_model.set_progress_bar_config(disable=True)
    prompt = "a blue circle moves left to right to left to right to left"
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(UserWarning, match="every frame will differ") as caught:
        image_model(prompt, num_frames=2, num_inference_steps=1, height=32, width=32, output_type="latent")
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    places = {(warning.filename, warning.lineno) for warning in caught if warning.category is UserWarning}
    assert len(messages) == 3
    for part in ("every frame will differ", "is cut off", "does not know 'blue'"):
        assert any(part in message for message in messages), part
    assert places == {(__file__, line)}


def test_a_prompt_without_a_known_word_is_refused(pipeline):
    for prompt in ("frogs jump", "?!"):
        with pytest.raises(
            ValueError, match="the model knows no word of .*: its vocabulary is closed, and has 12"
        ):
            pipeline(["a circle", prompt], **ONE)


def test_a_negative_prompt_may_lose_all_its_words(pipeline):
    with pytest.warns(UserWarning, match="does not know 'blurry' of 'blurry': ignored"):
        without = image(pipeline, "a circle", negative_prompt="blurry")
    assert (without == image(pipeline, "a circle", negative_prompt="")).all()


@pytest.fixture(scope="module")
def xl_pipeline(tmp_path_factory):
    pipeline = LatentShiftPipeline.from_pretrained(tiny_xl_folder(tmp_path_factory.mktemp("xl") / "model"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("layout", ["pipeline", "xl_pipeline"])
@pytest.mark.parametrize("guidance", [0.5, 1.0])
def test_a_negative_prompt_without_guidance_is_warned_of(request, layout, guidance):
    pipeline, options = request.getfixturevalue(layout), {**ONE, "guidance_scale": guidance}
    message = rf"negative prompt has no effect, for guidance_scale is {guidance:g}: pass more than 1 \(--guid"
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(UserWarning, match=message) as caught:
        pipeline(["a circle", "a square"], negative_prompt=["", "green"], **options)
    assert [(warning.filename, warning.lineno) for warning in caught if "negative" in str(warning)] == [
        (__file__, line)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for negative in (None, "", " ", ["", " "]):
            pipeline(["a circle", "a square"], negative_prompt=negative, **options)
        pipeline("a circle", negative_prompt="green", **{**ONE, "guidance_scale": 1.1})


def test_every_form_of_a_negative_prompt_without_guidance_is_warned_of(pipeline, xl_pipeline):
    options = {**ONE, "guidance_scale": 1.0}
    text, _ = pipeline.encode_prompt("a circle", "cpu", 1, False)
    with pytest.warns(UserWarning, match="negative prompt has no effect"):
        pipeline(prompt_embeds=text, negative_prompt_embeds=text, **options)
    with pytest.warns(UserWarning, match="negative prompt has no effect"):
        xl_pipeline("a circle", negative_prompt_2="green", **options)


def test_a_distilled_network_reads_no_negative_prompt_at_any_guidance():
    parts = {**tiny_components(), "unet": tiny_unet(time_cond_proj_dim=8)}
    pipeline = LatentShiftPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match="has no effect, for this U-Net is distilled"):
        pipeline("a circle", negative_prompt="green", height=32, width=32, **ONE)


def test_known_prompts_still_equal_the_stock_pipeline(pipeline, folder):
    stock = StableDiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    prompt, options = "A RED circle moves  left", {name: ONE[name] for name in ONE if name != "num_frames"}
    images = stock(prompt, generator=torch.Generator().manual_seed(0), height=32, width=32, **options).images
    assert (image(pipeline, prompt)[:, 0] == images).all()


def test_the_words_are_saved_with_the_model(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert read_video_config(tmp_path / "latent_shift.json").closed_vocabulary == WORDS


def test_only_tokenizers_made_of_words_are_closed():
    assert has_closed_vocabulary(tiny_tokenizer())
