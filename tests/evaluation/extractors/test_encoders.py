"""Extractors with a text side: CLIP through transformers, tiny; and the built-in encoders, which are real."""

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from latent_shift.evaluation.extractors import EXTRACTORS, ExtractorOptions, make_extractor
from latent_shift.evaluation.extractors.clip import MEAN, STD, Clip
from latent_shift.moving_shapes import caption, constants, draw_scenes, render
from latent_shift.moving_shapes.scorer.features import Encoders
from tiny import TEXT_LENGTH, tiny_tokenizer


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shared, "vocab_size": len(tokenizer), "max_position_embeddings": TEXT_LENGTH,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**shared, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_gives_what_transformers_gives(clip_folder):
    extractor = Clip(ExtractorOptions(clip=str(clip_folder)))
    clips = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    features = extractor(clips).features
    plain = CLIPModel.from_pretrained(clip_folder).eval()
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    pixels = (clips.flatten(0, 1).permute(0, 3, 1, 2) / 255 - mean) / deviation
    tokens = tiny_tokenizer()(
        ["a red circle", "a black square grows"], padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        out = plain(pixel_values=pixels, **tokens)
    unit = torch.nn.functional.normalize(features, dim=-1)
    texts = torch.nn.functional.normalize(extractor.texts(["a red circle", "a black square grows"]), dim=-1)
    assert torch.allclose(unit, out.image_embeds, atol=1e-5)
    assert torch.allclose(texts, out.text_embeds, atol=1e-5)
    assert features.shape == (6, 8)
    assert extractor.info.layer == "ViT 16 wide, 1 deep, patch 16, image embedding, 8 numbers a frame"
    assert extractor.preprocessing.resize == "bicubic"


def test_clip_that_is_nowhere_says_what_to_get(tmp_path):
    with pytest.raises(ValueError, match=r"layout of transformers.*openai/clip-vit-base-patch32.*--clip"):
        Clip(ExtractorOptions(clip=str(tmp_path)))


@pytest.fixture(scope="module")
def encoders():
    return Encoders(ExtractorOptions())


def test_the_built_in_encoders_know_a_clips_own_sentence(encoders):
    scenes = draw_scenes(1, range(24), level=1)
    clips = torch.from_numpy(render(scenes))
    features, logits = encoders(clips)
    assert logits is None
    texts = encoders.texts([caption(scene) for scene in scenes])
    cosines = (features @ texts.T).numpy()
    assert (cosines.argmax(axis=1) == np.arange(24)).mean() > 0.5  # by chance, 0.04
    assert torch.allclose(features.norm(dim=1), torch.ones(24), atol=1e-4)
    again = encoders(clips)
    assert torch.equal(again.features, features)
    held = clips[:, ::2].repeat_interleave(2, dim=1)
    assert torch.equal(encoders(clips[:, ::2]).features, encoders(held).features)


def test_a_frames_embedding_is_that_of_a_still_clip(encoders):
    stills = Encoders(ExtractorOptions(), "frame")
    clips = torch.from_numpy(render(draw_scenes(1, range(2), level=1)))
    features, logits = stills(clips[:, :3])
    assert (features.shape, logits) == ((6, 128), None)
    held = clips[1:, 2:3].expand(-1, 16, -1, -1, -1)
    assert torch.allclose(features[5], encoders(held).features[0], atol=1e-5)
    assert stills.info.name != encoders.info.name


def test_the_scorers_eyes_see_place_shape_and_colour():
    eyes = make_extractor("moving-shapes-eyes")
    scenes = draw_scenes(1, range(12), level=1)
    features, logits = eyes(torch.from_numpy(render(scenes)))
    assert features.shape == (12, eyes.info.width)
    named = [constants.SHAPES[number] for number in logits.argmax(dim=1)]
    spins = [scene.objects[0].motion in constants.SPINNING for scene in scenes]
    right = [name == scene.objects[0].shape for name, scene in zip(named, scenes, strict=True)]
    assert all(one for one, spinning in zip(right, spins, strict=True) if not spinning)
    for row, scene in zip(features.numpy(), scenes, strict=True):
        x = row[:16]
        if scene.objects[0].motion == "moving left":
            assert x[-1] < x[0] - 0.5
        if scene.objects[0].motion == "standing still":
            assert np.ptp(x) < 0.05
        colours = row[-15:-6]
        assert list(constants.COLOURS)[int(colours.argmax())] == scene.objects[0].colour
    blank, chances = eyes(torch.full((1, 16, 64, 64, 3), 128, dtype=torch.uint8))
    assert not blank[0, :64].any()
    assert chances.std() < 1e-6


def test_extractors_are_made_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("LATENT_SHIFT_METRIC_WEIGHTS", raising=False)
    assert make_extractor("moving-shapes", ExtractorOptions(antialias=False)).preprocessing.antialias is False
    with pytest.raises(ValueError, match=r"extractor 'vgg': expected one of inception-v3, clip"):
        make_extractor("vgg")
    for name in ("inception-v3", "i3d", "c3d", "mobilenet-v2"):
        assert name in EXTRACTORS
        with pytest.raises(ValueError, match=f"{name} needs a weights file"):
            make_extractor(name)
    with pytest.raises(ValueError, match="encoders of Moving Shapes are not there"):
        make_extractor("moving-shapes", ExtractorOptions(model=tmp_path))
