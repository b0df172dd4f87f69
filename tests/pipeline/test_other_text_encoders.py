"""Text encoders other than CLIP's: stock diffusers opens them, training and sampling read them alike."""

import json
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline

from latent_shift import checkpoints
from latent_shift.conditioning import encode_prompts
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.prompts import has_closed_vocabulary, truncated_text, unknown_words
from latent_shift.training.text_encoder import load_text_encoder
from tiny_text import SPECIAL, bert_tokenizer, model_with, tiny_bert, tiny_t5

CALL = {"num_inference_steps": 2, "height": 32, "width": 32, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(scope="module", params=[tiny_bert, tiny_t5], ids=["bert", "t5"])
def folder(request, tmp_path_factory):
    return model_with(request.param(), tmp_path_factory.mktemp("other") / "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return model_with(tiny_bert(), tmp_path_factory.mktemp("bert") / "model")


def generator():
    return torch.Generator().manual_seed(4)


def test_images_are_those_of_the_stock_pipeline(folder, tmp_path):
    stock = StableDiffusionPipeline.from_pretrained(folder)
    expected = stock("a red circle", generator=generator(), **CALL).images
    ours = checkpoints.load(folder)
    assert (ours("a red circle", num_frames=1, generator=generator(), **CALL).frames[:, 0] == expected).all()
    ours.save_pretrained(tmp_path / "saved")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert (again("a red circle", generator=generator(), **CALL).images == expected).all()
    # and the text matters
    assert (again("green square", generator=generator(), **CALL).images != expected).any()


def test_training_embeds_what_sampling_embeds(folder):
    pipeline = LatentShiftPipeline.from_pretrained(folder)
    with torch.no_grad():  # as in sampling
        embeds, _ = pipeline.encode_prompt("a red circle", "cpu", 1, False)
    assert (encode_prompts(pipeline, ["a red circle"]).states == embeds).all()


def test_padding_is_kept_out_where_the_configuration_says_so(bert):
    pipeline = LatentShiftPipeline.from_pretrained(bert)
    (padded,) = encode_prompts(pipeline, ["a red circle"]).states
    short = pipeline.tokenizer("a red circle", return_tensors="pt").input_ids
    alone = pipeline.text_encoder(short).last_hidden_state[0]
    assert torch.allclose(padded[: len(alone)], alone, atol=1e-5)
    pipeline.text_encoder.config.use_attention_mask = False
    assert not torch.allclose(
        encode_prompts(pipeline, ["a red circle"]).states[0, : len(alone)], alone, atol=1e-3
    )


def test_both_load_for_training(folder):
    tokenizer, encoder = load_text_encoder(folder)
    states = encoder(tokenizer(["a red circle"], return_tensors="pt").input_ids).last_hidden_state
    assert states.dtype == torch.float32
    assert states.shape[-1] == 16


def test_an_encoder_that_cannot_be_used_is_an_error(bert, tmp_path):
    tokenizer_config = bert / "tokenizer" / "tokenizer_config.json"
    text = tokenizer_config.read_text()
    tokenizer_config.write_text(json.dumps({**json.loads(text), "model_max_length": 10**30}))
    try:
        with pytest.raises(ValueError, match="set model_max_length in its tokenizer_config.json, 2 to 16"):
            load_text_encoder(bert)
    finally:
        tokenizer_config.write_text(text)
    index = bert / "model_index.json"
    text = index.read_text()
    part = bert / "text_encoder" / "config.json"
    config = part.read_text()
    try:
        index.write_text(
            json.dumps({**json.loads(text), "text_encoder": ["transformers", "BertForMaskedLM"]})
        )
        part.write_text(json.dumps({**json.loads(config), "architectures": ["BertForMaskedLM"]}))
        with pytest.raises(ValueError, match="expected a model of transformers that gives a state per token"):
            checkpoints.resolve(bert)
        part.write_text(json.dumps({**json.loads(config), "hidden_size": 24}))
        index.write_text(text)
        with pytest.raises(ValueError, match="cross_attention_dim is 16, but the text .* is of width 24"):
            checkpoints.resolve(bert)
    finally:
        index.write_text(text)
        part.write_text(config)


def test_clip_skip_is_for_clip(bert):
    pipeline = LatentShiftPipeline.from_pretrained(bert)
    with pytest.raises(
        ValueError, match="clip_skip 1: is for CLIP's text encoder; this model has a BertModel"
    ):
        pipeline("a red circle", num_frames=1, clip_skip=1, **CALL)


def test_unknown_words_are_spelled_and_never_an_error(bert):
    tokenizer = bert_tokenizer()
    assert not has_closed_vocabulary(tokenizer)
    assert tokenizer.tokenize("xqz") == ["x", "##q", "##z"]
    assert unknown_words(tokenizer, "a xqz circle") == []
    assert unknown_words(tokenizer, "a 漢字 circle") == ["漢字"]
    pipeline = LatentShiftPipeline.from_pretrained(bert)
    with pytest.warns(UserWarning, match="does not know '漢字'"):
        pipeline("xqz blorp 漢字", num_frames=1, **CALL)


def test_a_long_prompt_is_cut_with_a_warning(bert):
    pipeline = LatentShiftPipeline.from_pretrained(bert)
    long = " ".join(["a red circle"] * 170)
    assert truncated_text(pipeline.tokenizer, "a red circle") == ""
    # 16 tokens, of which two are special: fourteen words.
    assert truncated_text(pipeline.tokenizer, long) == " ".join(long.split()[14:])
    with pytest.warns(UserWarning, match="the text model reads 16 tokens"):
        cut = pipeline(long, num_frames=1, generator=generator(), **CALL).frames
    expected = pipeline(" ".join(long.split()[:14]), num_frames=1, generator=generator(), **CALL).frames
    assert (cut == expected).all()


def test_an_emoji_is_read_as_its_name(bert):
    pipeline = LatentShiftPipeline.from_pretrained(bert)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = pipeline("🚀", num_frames=1, generator=generator(), **CALL).frames
        named = pipeline("rocket", num_frames=1, generator=generator(), **CALL).frames
    assert (shown == named).all()
    assert SPECIAL[1] not in pipeline.tokenizer.tokenize("rocket")
