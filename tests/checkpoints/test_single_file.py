"""Single files in the original layouts: recognised and loaded, or refused with what was found in them."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from latent_shift import LatentShiftPipeline, checkpoints, media
from latent_shift.checkpoints import single_file
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.io import SafetensorsHeader
from original_layout import autoencoder, clip, open_clip, unet, write_single_file
from tiny import tiny_components, tiny_unet
from tiny_xl import padded_tokenizer, text_config, tiny_xl_components

PROMPT = "a red circle moves left"
CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np", "height": 32, "width": 32}
HEADS = {"attention_head_dim": 4, "layers_per_block": 2}


def tiny(kind):
    """A tiny stock pipeline whose text is as wide as the published models', by which files are recognised."""
    if kind == "sdxl":
        components = tiny_xl_components(widths=(768, 1280))
        return StableDiffusionXLPipeline(**components, add_watermarker=False)
    width = {"sd-1": 768, "sd-2": 1024}[kind]
    components = {
        **tiny_components(),
        "tokenizer": padded_tokenizer("!" if kind == "sd-2" else "<|endoftext|>"),
    }
    torch.manual_seed(4)
    components["unet"] = tiny_unet(cross_attention_dim=width, use_linear_projection=kind == "sd-2", **HEADS)
    components["scheduler"] = DDIMScheduler(clip_sample=False)
    components["text_encoder"] = CLIPTextModel(text_config(len(components["tokenizer"]), width)).eval()
    return StableDiffusionPipeline(**components)


@pytest.fixture(scope="module", params=["sd-1", "sd-2", "sdxl"])
def made(request, tmp_path_factory):
    """(kind, diffusers folder, single file): one tiny model, saved both ways."""
    folder = tmp_path_factory.mktemp("models")
    pipeline = tiny(request.param)
    pipeline.save_pretrained(folder / request.param)
    file = write_single_file(pipeline, folder / f"{request.param}.safetensors")
    return request.param, folder / request.param, file


@pytest.fixture
def configs(made, monkeypatch):
    """The tiny folder's configs in the place of the published sizes'."""
    monkeypatch.setattr(single_file, "CONFIGS", made[1].parent)


def options(kind, folder):
    return {"tokenizer": folder / "tokenizer", **({"prediction_type": "epsilon"} if kind == "sd-2" else {})}


def image(pipeline, **more):
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(PROMPT, generator=torch.Generator().manual_seed(1), **CALL, **more)
    return result.frames


def test_a_file_is_the_model_that_it_was_written_from(made, configs):
    kind, folder, file = made
    ours = checkpoints.load(file, device="cpu", **options(kind, folder))
    same = LatentShiftPipeline.from_pretrained(folder)
    same.scheduler = type(ours.scheduler).from_config(ours.scheduler.config)
    assert type(ours) is type(same)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(same, part, None) is not None:
            mine, theirs = getattr(ours, part).state_dict(), getattr(same, part).state_dict()
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine), part
    for frames in (1, 3):
        assert np.array_equal(image(ours, num_frames=frames), image(same, num_frames=frames))


def test_the_program_takes_a_file(made, configs, tmp_path, capsys):
    kind, folder, file = made
    given = [
        "a red circle",
        "--model",
        file,
        "--seed",
        1,
        "--frames",
        2,
        "--steps",
        1,
        "-o",
        tmp_path / "a.webp",
    ]
    given += [
        word
        for name, value in options(kind, folder).items()
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    assert errors.run(app, ["generate", *map(str, given)]) == 0
    settings = media.read_settings(tmp_path / "a.webp")
    assert settings["weights"] == checkpoints.weights_hash(file)
    assert settings.get("prediction") == options(kind, folder).get("prediction_type")
    assert checkpoints.pixel_multiple(file) == 4
    assert not checkpoints.video_config(file).video_tuned


def test_a_file_needs_a_tokenizer(made):
    kind, folder, file = made
    wanted = options(kind, folder)
    with pytest.raises(ValueError, match="a single file has no tokenizer; name one with --tokenizer"):
        checkpoints.resolve(file, prediction_type=wanted.get("prediction_type"))
    with pytest.raises(ValueError, match="vae: holds no tokenizer"):
        checkpoints.resolve(file, **{**wanted, "tokenizer": folder / "vae"})
    assert checkpoints.resolve(file, **{**wanted, "tokenizer": folder}) == file
    with pytest.raises(ValueError, match="--tokenizer .* is for single files"):
        checkpoints.resolve(folder, tokenizer=folder)


def test_a_tokenizer_of_other_words_is_refused(made, configs, tmp_path):
    kind, folder, file = made
    other = shutil.copytree(folder / "tokenizer", tmp_path / "other")
    for name in ("tokenizer.json", "vocab.json"):
        if (other / name).is_file():
            text = json.loads((other / name).read_text())
            vocabulary = text["model"]["vocab"] if name == "tokenizer.json" else text
            vocabulary["zzz"] = max(vocabulary.values()) + 1
            (other / name).write_text(json.dumps(text))
    with pytest.raises(ValueError, match=r"other: has \d+ tokens, but the text model in .* knows \d+"):
        checkpoints.load(file, device="cpu", **{**options(kind, folder), "tokenizer": other})


def test_missing_weights_are_named(made, configs, tmp_path):
    kind, folder, file = made
    from safetensors.torch import load_file

    tensors = load_file(file)
    del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="unet.mid_block.resnets.0.conv1.weight|cannot be loaded"):
        checkpoints.load(tmp_path / "cut.safetensors", device="cpu", **options(kind, folder))


# What a model predicts


def header(metadata=None, **shapes):
    return SafetensorsHeader(shapes, {}, metadata or {})


SD1, SD2, XL = single_file.LAYOUTS


@pytest.mark.parametrize(
    ("layout", "said", "asked", "expected"),
    [
        (SD1, header(), None, "epsilon"),
        (SD1, header(), "v_prediction", "v_prediction"),
        (SD2, header({"modelspec.prediction_type": "v"}), None, "v_prediction"),
        (SD2, header({"modelspec.prediction_type": "epsilon"}), None, "epsilon"),
        (SD2, header(), "epsilon", "epsilon"),
        (XL, header(), None, "epsilon"),
        (XL, header(v_pred=(0,)), None, "v_prediction"),
    ],
)
def test_what_a_model_predicts(tmp_path, layout, said, asked, expected):
    assert single_file.choose_prediction_type(tmp_path, layout, said, asked) == expected


def test_nothing_is_guessed_of_sd_2(tmp_path):
    with pytest.raises(
        ValueError, match="does not say what it predicts; name it with --prediction-type: epsilon"
    ):
        single_file.choose_prediction_type(tmp_path, SD2, header(), None)
    with pytest.raises(ValueError, match="prediction type 'v': expected one of epsilon, v_prediction"):
        single_file.choose_prediction_type(tmp_path, SD2, header(), "v")


# The published sizes: networks without memory, their files without contents


PARAMETERS = {
    "sd-1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd-2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684, "vae": 83_653_863,
        "text_encoder": 123_060_480, "text_encoder_2": 694_659_840,
    },
}  # fmt: skip


def published(kind):
    """The networks of the packaged configs, without memory."""
    import diffusers
    import transformers

    place = single_file.CONFIGS / kind
    index = json.loads((place / "model_index.json").read_text())
    networks = {}
    with torch.device("meta"):
        for part in PARAMETERS[kind]:
            library, name = index[part]
            network = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
            if library == "diffusers":
                networks[part] = network.from_config(network.load_config(place / part))
            else:
                networks[part] = network(network.config_class.from_pretrained(place / part))
    return networks


@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_packaged_configs_have_the_published_parameters(kind):
    counted = {
        part: sum(parameter.numel() for parameter in network.parameters())
        for part, network in published(kind).items()
    }
    assert counted == PARAMETERS[kind]


@pytest.mark.parametrize("kind", PARAMETERS)
def test_files_of_the_published_sizes_are_recognised(kind, tmp_path):
    """By their headers alone: the files have holes for weights, and take no room on the disk."""
    parts = published(kind)
    shapes = {f"model.diffusion_model.{key}": tensor.shape for key, tensor in unet(parts["unet"]).items()}
    shapes |= {f"first_stage_model.{key}": tensor.shape for key, tensor in autoencoder(parts["vae"]).items()}
    texts = {
        "sd-1": lambda: clip(parts["text_encoder"], "cond_stage_model.transformer."),
        "sd-2": lambda: open_clip(parts["text_encoder"], "cond_stage_model.model."),
        "sdxl": lambda: {
            **clip(parts["text_encoder"], "conditioner.embedders.0.transformer."),
            **open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model."),
        },
    }
    shapes |= {key: tensor.shape for key, tensor in texts[kind]().items()}
    file = hollow(tmp_path / "model.safetensors", shapes)
    assert single_file.detect_layout(file)[0].configs == kind
    assert checkpoints.pixel_multiple(file) == 8


def hollow(file, shapes, metadata=None):
    """A safetensors file with these tensors in float16, all holes."""
    entries, end = {} if metadata is None else {"__metadata__": metadata}, 0
    for key, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        entries[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return file


# What is refused


STEM = {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)}
KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({}, "holds nothing; expected a checkpoint in the layout of SD 1.x, SD 2.x, SDXL"),
        ({"lora_unet_x.lora_down.weight": (1, 1)}, "is a LoRA file, to be loaded upon its base model"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1, 1)}, "holds one part of a diffusers folder alone"),
        ({"double_blocks.0.x": (1,), "img_in.weight": (1,)}, "holds 2 tensors under double_blocks, img_in"),
        ({**STEM, KEY: (8, 1280)}, "holds a U-Net that reads text of width 1280"),
        (STEM, "holds a U-Net that reads no text"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3), KEY: (8, 768)},
            "its U-Net reads 9 channels, as one for inpainting does",
        ),
        (
            {**STEM, KEY: (8, 768)},
            "is of SD 1.x, but holds no first_stage_model. and no cond_stage_model.transformer.text_model.",
        ),
    ],
)
def test_other_files_are_told_apart(tmp_path, shapes, found):
    file = hollow(tmp_path / "model.safetensors", shapes)
    with pytest.raises(ValueError, match=r"model\.safetensors: ") as caught:
        checkpoints.resolve(file)
    assert found in str(caught.value)


def test_pickles_and_broken_files_are_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model\.ckpt: expected a \.safetensors file; pickled"):
        checkpoints.resolve(tmp_path / "model.ckpt")
    file = hollow(tmp_path / "model.safetensors", STEM)
    whole = file.read_bytes()
    for kept in (0, 7, 40, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="is truncated or damaged"):
            checkpoints.resolve(file)


def test_the_shift_goes_into_the_published_networks():
    """22 blocks of SD 1.5 and 2.x shift, and 17 of SDXL."""
    from latent_shift.unet import ShiftedResnetBlock2D, enable_temporal_shift

    for kind, sites in (("sd-1", 22), ("sd-2", 22), ("sdxl", 17)):
        network = published(kind)["unet"]
        assert isinstance(network, UNet2DConditionModel)
        enable_temporal_shift(network, 16)
        assert sum(isinstance(block, ShiftedResnetBlock2D) for block in network.modules()) == sites
