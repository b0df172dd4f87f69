"""LoRA files of the base model: three layouts, several with weights; keys that fit nothing are named."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from latent_shift import checkpoints
from latent_shift.checkpoints import Lora
from latent_shift.unet import shift_options
from tiny import tiny_pipeline_folder

PROMPT = "a red circle moves left"
CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn{}.{}"

# Layers of the tiny model: (part, path, rank, alpha); alpha over rank is a power of two, exact in any order.
LAYERS = [
    ("unet", ATTENTION.format(1, "to_q"), 2, 2.0),
    ("unet", ATTENTION.format(2, "to_out.0"), 4, 2.0),
    ("unet", "down_blocks.1.resnets.0.conv1", 2, 4.0),
    ("unet", "up_blocks.1.resnets.0.time_emb_proj", 2, 2.0),
    ("text_encoder", "encoder.layers.0.self_attn.q_proj", 2, 1.0),
    ("text_encoder", "encoder.layers.0.self_attn.out_proj", 2, 2.0),
    ("text_encoder", "encoder.layers.0.mlp.fc1", 4, 8.0),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def stock(model):
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(stock, seed=0, layers=LAYERS):
    """Both halves of each layer: {(part, path): (down (rank, in, ...), up (out, rank, ...), alpha)}."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for part, path, rank, alpha in layers:
        weight = getattr(stock, part).get_submodule(path).weight
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.2
        up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=generator) * 0.2
        drawn[part, path] = down, up, alpha
    return drawn


def kohya(drawn):
    tensors = {}
    for (part, path), (down, up, alpha) in drawn.items():
        path = path if part == "unet" else f"text_model.{path}"
        name = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + path.replace(".", "_")
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def peft(drawn):
    """As peft names them; alphas, which this layout has no place for, are put into the upper halves."""
    tensors = {}
    for (part, path), (down, up, alpha) in drawn.items():
        tensors[f"{part}.{path}.lora_A.weight"] = down
        tensors[f"{part}.{path}.lora_B.weight"] = up * (alpha / len(down))
    return tensors


def diffusers(drawn):
    tensors = {}
    for (part, path), (down, up, alpha) in drawn.items():
        middle = "lora" if part == "unet" else "lora_linear_layer"
        path = path if part == "unet" else f"text_model.{path}"
        tensors[f"{part}.{path}.{middle}.down.weight"] = down
        tensors[f"{part}.{path}.{middle}.up.weight"] = up * (alpha / len(down))
    return tensors


def merged(stock, *weighed):
    """A copy of the stock pipeline whose weights have the LoRA layers added, by hand."""
    plain = copy.deepcopy(stock)
    for drawn, weight in weighed:
        for (part, path), (down, up, alpha) in drawn.items():
            layer = getattr(plain, part).get_submodule(path)
            change = (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
            layer.weight.data += weight * alpha / len(down) * change
    return plain


def load(model, *loras):
    pipeline = checkpoints.load(model, device="cpu", loras=loras)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image(pipeline, **more):
    result = pipeline(PROMPT, generator=torch.Generator().manual_seed(1), **CALL, **more)
    return result.images if "images" in result else result.frames[:, 0]


@pytest.mark.parametrize("layout", [kohya, peft, diffusers])
def test_every_layout_is_added_to_the_weights(model, stock, tmp_path, layout):
    drawn = draw(stock)
    file = tmp_path / "style.safetensors"
    save_file(layout(drawn), file)
    ours = image(load(model, file.as_posix()), num_frames=1)
    np.testing.assert_allclose(ours, image(merged(stock, (drawn, 1.0))), atol=1e-4)
    assert not np.allclose(ours, image(stock), atol=1e-2)


@pytest.mark.parametrize("layout", [kohya, peft])
def test_one_frame_is_the_stock_pipelines_with_the_same_lora(model, tmp_path, layout, stock):
    """One alpha for all layers, for where they differ diffusers mixes up those of the text model."""
    layers = [(part, path, rank, 4.0) for part, path, rank, _ in LAYERS]
    save_file(layout(draw(stock, layers=layers)), tmp_path / "style.safetensors")
    plain = copy.deepcopy(stock)
    plain.load_lora_weights(str(tmp_path), weight_name="style.safetensors")
    ours = load(model, f"{tmp_path / 'style.safetensors'}:1")
    assert np.array_equal(image(ours, num_frames=1), image(plain))


def test_several_files_add_up_by_their_weights(model, stock, tmp_path):
    first, second = draw(stock, 1, LAYERS[:3]), draw(stock, 2, LAYERS[2:])
    save_file(kohya(first), tmp_path / "a.safetensors")
    save_file(peft(second), tmp_path / "b.safetensors")
    both = load(model, f"{tmp_path}/a.safetensors:0.5", Lora(tmp_path / "b.safetensors", -0.25))
    expected = image(merged(stock, (first, 0.5), (second, -0.25)))
    np.testing.assert_allclose(image(both, num_frames=1), expected, atol=1e-4)


def test_one_file_for_the_text_model_and_one_for_the_unet(model, stock, tmp_path):
    unet, text = draw(stock, 1, LAYERS[:4]), draw(stock, 2, LAYERS[4:])
    save_file(kohya(unet), tmp_path / "unet.safetensors")
    save_file(kohya(text), tmp_path / "text.safetensors")
    ours = load(model, f"{tmp_path}/unet.safetensors:2", f"{tmp_path}/text.safetensors:0.5")
    expected = image(merged(stock, (unet, 2), (text, 0.5)))
    np.testing.assert_allclose(image(ours, num_frames=1), expected, atol=1e-4)


def test_weight_0_equals_no_lora(model, stock, tmp_path):
    save_file(kohya(draw(stock)), tmp_path / "style.safetensors")
    without, none = load(model), load(model, f"{tmp_path}/style.safetensors:0")
    for frames in (1, 3):
        clips = [
            each(PROMPT, num_frames=frames, generator=torch.Generator().manual_seed(1), **CALL).frames
            for each in (without, none)
        ]
        assert np.array_equal(*clips)


def test_the_shift_stays_on_with_lora_layers(model, stock, tmp_path):
    """Another last frame changes its neighbours; and the clip is that of a model with merged weights."""
    drawn = draw(stock)
    save_file(kohya(drawn), tmp_path / "style.safetensors")
    ours = load(model, f"{tmp_path}/style.safetensors")
    assert shift_options(ours.unet) is not None
    latents = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    other = latents.clone()
    other[:, 3] += 1
    call = {"num_inference_steps": 2, "output_type": "latent"}
    clip = ours(PROMPT, latents=latents, **call).frames
    assert not torch.allclose(clip[:, 2], ours(PROMPT, latents=other, **call).frames[:, 2], atol=1e-3)
    merged_in = type(ours).from_pipe(merged(stock, (drawn, 1.0)))
    merged_in.video_config = ours.video_config
    merged_in.set_progress_bar_config(disable=True)
    torch.testing.assert_close(clip, merged_in(PROMPT, latents=latents, **call).frames, atol=1e-4, rtol=0)


def test_what_peft_trained_here_loads_with_its_own_alpha(model, stock, tmp_path):
    """A file of stock diffusers keeps alpha in its metadata; it must not be taken for the rank."""
    from peft import LoraConfig, get_peft_model_state_dict

    trained = copy.deepcopy(stock)
    trained.unet.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "conv1"]))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in trained.unet.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(trained.unet),
        unet_lora_adapter_metadata=trained.unet.peft_config["default"].to_dict(),
    )
    ours = load(model, f"{tmp_path}/pytorch_lora_weights.safetensors")
    assert np.array_equal(image(ours, num_frames=1), image(trained))


# What is refused


def renamed(tensors, old, new):
    return {key.replace(old, new): tensor for key, tensor in tensors.items()}


BROKEN = {
    "another name": lambda layers: renamed(kohya(layers), "attn1_to_q", "attn9_to_q"),
    "another name, as peft names it": lambda layers: renamed(peft(layers), "attn1.to_q", "attn9.to_q"),
    "a second text model": lambda layers: renamed(kohya(layers), "lora_te_", "lora_te2_"),
    "an unknown part": lambda layers: renamed(peft(layers), "text_encoder.", "tower."),
    "half a layer": lambda layers: {k: v for k, v in kohya(layers).items() if "fc1.lora_up" not in k},
    "another kind": lambda layers: {**kohya(layers), "lora_unet_conv_in.hada_w1_a": torch.ones(2, 2)},
    "another kind, as peft names it": lambda layers: {**peft(layers), "unet.conv_in.lokr_w1": torch.ones(2)},
}
NAMED = {
    "another name": "2 of its|3 of its .*attn9_to_q",
    "another name, as peft names it": "2 of its .*attn9.to_q.lora_A.weight",
    "a second text model": "9 of its .*lora_te2_",
    "an unknown part": "6 of its .*tower.encoder",
    "half a layer": "2 of its .*fc1.lora_down.weight",
    "another kind": "1 of its .*hada_w1_a",
    "another kind, as peft names it": "1 of its .*unet.conv_in.lokr_w1",
}


@pytest.mark.parametrize("kind", NAMED)
def test_keys_that_fit_nothing_are_listed(model, stock, tmp_path, kind):
    file = tmp_path / "odd.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in BROKEN[kind](draw(stock)).items()}, file)
    with pytest.raises(ValueError, match=f"odd.safetensors: ({NAMED[kind]})"):
        load(model, str(file))


def test_a_layer_of_another_width_fits_nothing(model, stock, tmp_path):
    tensors = kohya(draw(stock))
    key = next(key for key in tensors if "to_q.lora_down" in key)
    tensors[key] = torch.cat([tensors[key], tensors[key]], 1)
    save_file(tensors, tmp_path / "wide.safetensors")
    with pytest.raises(
        ValueError, match=f"1 of its 21 keys fit nothing in this model: {key}; is it a LoRA of"
    ):
        load(model, f"{tmp_path}/wide.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: {"lora_A": a}, "holds only the first half of the layer unet."),
        (lambda a, b: {"lora_B": b}, "holds only the second half of the layer unet."),
        (
            lambda a, b: {"lora_A": a, "lora_B": torch.cat([b, b], 1)},
            "are of ranks 2 and 4; expected one rank",
        ),
        (
            lambda a, b: {"lora_A": a[:0], "lora_B": b[:, :0].clone()},
            "are of ranks 0 and 0; expected one rank",
        ),
    ],
)
def test_halves_of_a_layer_that_do_not_fit_are_named(model, stock, tmp_path, change, message):
    part, path, _, _ = next(layer for layer in LAYERS if layer[0] == "unet" and "attn" in layer[1])
    out, into = stock.unet.get_submodule(path).weight.shape
    halves = change(torch.randn(2, into), torch.randn(out, 2))
    save_file(
        {f"{part}.{path}.{side}.weight": one for side, one in halves.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*{message}"):
        load(model, f"{tmp_path}/a.safetensors")


def test_values_that_are_not_finite_are_not_blamed_on_the_precision(model, stock, tmp_path):
    part, path, _, _ = next(layer for layer in LAYERS if layer[0] == "unet" and "attn" in layer[1])
    out, into = stock.unet.get_submodule(path).weight.shape
    halves = {"lora_A": torch.full((2, into), torch.inf), "lora_B": torch.randn(out, 2)}
    save_file(
        {f"{part}.{path}.{side}.weight": one for side, one in halves.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=r"a\.safetensors: .*lora_A\.weight is not finite; the file"):
        load(model, f"{tmp_path}/a.safetensors")


def test_many_keys_are_counted(model, tmp_path):
    save_file({f"lora_unet_x{n}.alpha": torch.ones(1) for n in range(20)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="20 of its 20 keys fit nothing in this model: .* and 12 more"):
        load(model, f"{tmp_path}/odd.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_files_are_named(stock, tmp_path, kept):
    file = tmp_path / "cut.safetensors"
    save_file(kohya(draw(stock)), file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut\.safetensors: is no safetensors file, or is truncated"):
        checkpoints.check_loras([str(file)])


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.safetensors: there is no such file"):
        checkpoints.check_loras([f"{tmp_path}/none.safetensors"])
    (tmp_path / "style.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"style\.pt: a LoRA file must end in \.safetensors"):
        checkpoints.check_loras([f"{tmp_path}/style.pt:0.5"])
    save_file({"unet.conv_in.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds no LoRA layers: its keys begin with unet\.conv_in\.weight"):
        checkpoints.check_loras([f"{tmp_path}/model.safetensors"])


def test_files_and_weights_are_told_apart(tmp_path):
    assert Lora.parse("a.safetensors") == Lora(tmp_path.__class__("a.safetensors"), 1.0)
    assert Lora.parse("a.safetensors:-0.5").weight == -0.5
    assert str(Lora.parse("C:/x/a.safetensors").file) == "C:/x/a.safetensors"
    (tmp_path / "odd:2").write_bytes(b"")
    assert Lora.parse(f"{tmp_path}/odd:2").weight == 1.0
    with pytest.raises(ValueError, match="the weight nan must be a finite number"):
        Lora.parse("a.safetensors:nan")
