"""Models whose parts are incomplete, of another kind, or do not fit: one line, before anything is loaded."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from latent_shift import LatentShiftPipeline, checkpoints, systems
from latent_shift.checkpoints.single_file import load_tokenizer
from latent_shift.cli import errors
from latent_shift.pipeline import LatentShiftXLPipeline
from latent_shift.training.model_setup import load_autoencoder, load_unet
from latent_shift.training.text_encoder import load_text_encoder
from program import run_program
from tiny import tiny_pipeline_folder
from tiny_xl import tiny_xl_folder

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def edit_weights(folder, part, change):
    file = folder / part / f"{WEIGHTS[part]}.safetensors"
    save_file(dict(change(sorted(load_file(file).items()))), file, metadata={"format": "pt"})
    return file


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights_are_named(copy, part):
    edit_weights(copy, part, lambda tensors: tensors[:3] + tensors[5:])
    name = f"{part}/{WEIGHTS[part]}.safetensors: lacks 2 of the [0-9]+ weights of a [A-Za-z0-9]+, the first "
    with pytest.raises(ValueError, match=name):
        checkpoints.load(copy, device="cpu")


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights_are_named_to_python(copy, part):
    file = edit_weights(copy, part, lambda tensors: tensors[1:])
    with pytest.raises(ValueError, match=f"^{file}: lacks 1 of the"):
        LatentShiftPipeline.from_pretrained(copy)
    whole = getattr(LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(copy / "whole")), part)
    LatentShiftPipeline.from_pretrained(copy, **{part: whole})


def test_the_second_text_encoder_of_sdxl_gives_pooled_states(tmp_path):
    folder = tiny_xl_folder(tmp_path / "xl")
    edit_json(folder / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"])
    with pytest.raises(ValueError, match="text_encoder_2 is a CLIPTextModel; expected CLIPTextModelWithProj"):
        systems.inspect(folder)


def test_missing_weights_of_sdxl_are_named_to_python(tmp_path):
    folder = tiny_xl_folder(tmp_path / "xl")
    file = folder / "text_encoder_2" / "model.safetensors"
    save_file(dict(sorted(load_file(file).items())[1:]), file, metadata={"format": "pt"})
    for pipeline in (LatentShiftPipeline, LatentShiftXLPipeline):
        with pytest.raises(ValueError, match="text_encoder_2/model.safetensors: lacks 1 of the"):
            pipeline.from_pretrained(folder)


def test_parts_that_do_not_fit_are_named_to_python(copy):
    edit_json(copy / "unet/config.json", in_channels=9)
    with pytest.raises(ValueError, match="its U-Net reads 9 channels, as one for inpainting does"):
        LatentShiftPipeline.from_pretrained(copy)


def test_a_scheduler_of_another_family_is_named_to_python(model):
    pipeline = LatentShiftPipeline.from_pretrained(model)
    for scheduler in (
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ):
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=f"{type(scheduler).__name__}, .* of another family"):
            pipeline("a red circle", num_inference_steps=2)


def test_missing_weights_of_earlier_stages_are_named(copy):
    for part, load in (("unet", load_unet), ("vae", load_autoencoder), ("text_encoder", load_text_encoder)):
        load(copy)
        edit_weights(copy, part, lambda tensors: tensors[1:])
        with pytest.raises(ValueError, match="lacks 1 of the"):
            load(copy)


def test_weights_of_another_shape_are_named(copy):
    def cut(tensors):
        return [(key, one[:2] if "fc1.weight" in key else one) for key, one in tensors]

    edit_weights(copy, "text_encoder", cut)
    with pytest.raises(
        ValueError, match=r"model.safetensors: its .*fc1.weight is of shape \(2, 16\), by .* it"
    ):
        checkpoints.load(copy, device="cpu")


def test_a_missing_piece_is_named(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = "diffusion_pytorch_model-{:05d}-of-00002.safetensors"
    weight_map = {key: name.format(1 + number % 2) for number, key in enumerate(tensors)}
    listing = file.with_name(f"{file.name}.index.json")
    listing.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for piece in sorted(set(weight_map.values())):
        part = {key: tensors[key] for key in tensors if weight_map[key] == piece}
        save_file(part, file.with_name(piece), metadata={"format": "pt"})
    file.unlink()
    checkpoints.load(copy, device="cpu")
    file.with_name(piece).unlink()
    with pytest.raises(ValueError, match=f"{piece}: is missing, one of the pieces that"):
        checkpoints.load(copy, device="cpu")


@pytest.mark.parametrize(
    "content", [{}, {"metadata": {}, "weight_map": {"a": 3}}, {"weight_map": {"a": "b"}}]
)
def test_a_listing_of_no_pieces_is_named(copy, content):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("piece.safetensors"))
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json: lacks metadata, or a weight_map of weights to files"):
        checkpoints.load(copy, device="cpu")


def test_words_added_beside_the_vocabulary_count(copy):
    (copy / "tokenizer" / "added_tokens.json").write_text('{"<new>": 5000}')
    with pytest.raises(ValueError, match="its words have numbers up to 5000, the text encoder knows"):
        checkpoints.resolve(copy)


PURE_NOISE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
TEXT, VAE, WORDS = "text_encoder/config.json", "vae/config.json", "tokenizer/tokenizer.json"
TOKENIZER, SCHEDULER = "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            TOKENIZER,
            {"model_max_length": 10**30},
            "tokenizer_config.json: model_max_length is 10+; exp",
        ),
        (
            "text_encoder/config.json",
            {"max_position_embeddings": 8},
            "model_max_length is 12; expected .* 8$",
        ),
        (TEXT, {"vocab_size": 5}, "its words have numbers up to .* encoder knows 5"),
        (TEXT, {"vocab_size": "x"}, "text_encoder/config.json: vocab_size is 'x'; expected a whole number"),
        (TEXT, {"hidden_size": True}, "hidden_size is 'True'; expected a whole number above 0"),
        ("unet/config.json", {"in_channels": [4]}, r"in_channels is '\[4\]'; expected a whole number"),
        ("tokenizer/tokenizer.json", {"model": [1]}, "tokenizer.json: has no numbered words"),
        ("tokenizer/tokenizer.json", {"model": {}}, "tokenizer.json: has no numbered words"),
        (SCHEDULER, {"beta_schedule": "nope"}, "scheduler_config.json: gives no noise schedule: nope"),
        (SCHEDULER, {"num_train_timesteps": "1000"}, "scheduler_config.json: gives no noise schedule"),
        (SCHEDULER, {"timestep_spacing": "nope"}, "scheduler_config.json: gives no noise schedule"),
        (SCHEDULER, {"beta_start": -1.0}, "gives no noise schedule: its betas are not all from 0 to 1"),
        (
            SCHEDULER,
            {"num_train_timesteps": 10**9},
            "num_train_timesteps is 1000000000; expected 1 to 100000",
        ),
        (
            SCHEDULER,
            {"trained_betas": [0.1] * 2},
            "trained_betas should be [0-9]+ numbers, it holds 2 of them",
        ),
        (
            SCHEDULER,
            {**PURE_NOISE, "prediction_type": "epsilon"},
            "its first step begins at pure noise .rescale_betas_zero_snr., of which a model of epsilon",
        ),
        (VAE, {"scaling_factor": 0}, "vae/config.json: scaling_factor is 0; expected a number above 0"),
        (VAE, {"scaling_factor": None}, "scaling_factor is None; expected a number above 0"),
        (VAE, {"scaling_factor": float("nan")}, "scaling_factor is nan; expected a number above 0"),
        (VAE, {"latents_mean": [0.0], "latents_std": [1.0]}, r"latents_mean is \[0.0\]; expected 4 numbers"),
        (VAE, {"latents_std": [1.0, 1.0, 1.0, 0.0]}, "latents_std is .*; expected numbers above 0"),
        (WORDS, {"added_tokens": [{"id": 99999, "content": "<new>"}]}, "have numbers up to 99999, the text"),
        ("model_index.json", {"unet": ["diffusers"]}, r"unet is \['diffusers'\]; expected its library"),
        ("model_index.json", {"unet": ["os", "system"]}, "unet: is of the class os.system; there is none"),
        (
            "vae/config.json",
            {"block_out_channels": []},
            r"vae: cannot be loaded: its config makes no AutoencoderKL.*\(list index",
        ),
        (
            "unet/config.json",
            {"sample_size": None},
            "sample_size is None; expected a number",
        ),
    ],
)
def test_configs_that_nothing_can_be_made_of_are_named(copy, file, changes, message):
    edit_json(copy / file, **changes)
    (copy / "latent_shift.json").unlink()
    with pytest.raises(ValueError, match=message):
        systems.inspect(copy) and checkpoints.load(copy, device="cpu")


def test_a_tokenizer_without_words_is_refused(copy):
    (copy / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer: has neither tokenizer.json nor vocab.json"):
        checkpoints.resolve(copy)


def test_whole_numbers_are_no_weights(copy):
    edit_weights(copy, "unet", lambda tensors: [(key, (one * 40).to(torch.int8)) for key, one in tensors])
    with pytest.raises(ValueError, match="weights are I8, whole numbers without their scales"):
        checkpoints.load(copy, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floating_point_types_load(copy, dtype):
    edit_weights(copy, "unet", lambda tensors: [(key, one.to(dtype)) for key, one in tensors])
    assert checkpoints.load(copy, device="cpu").unet.dtype == torch.float32


def test_names_of_earlier_releases_are_no_missing_weights(copy):
    """Published autoencoders and text models hold keys of old libraries, which the new ones rename."""
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}

    def former(tensors):
        for key, tensor in tensors:
            for new, name in old.items():
                key = key.replace(new, name) if "mid_block.attentions" in key else key
            yield key, tensor

    expected = checkpoints.load(copy, device="cpu").vae.state_dict()
    edit_weights(copy, "vae", former)
    edit_weights(copy, "text_encoder", lambda all_: [(f"text_model.{key}", one) for key, one in all_])
    loaded = checkpoints.load(copy, device="cpu").vae.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "its U-Net reads 9 channels, as one for inpainting does; expected 4"),
        ({"in_channels": 8}, "its U-Net reads 8 channels, as one for editing images does"),
        ({"out_channels": 8}, "its U-Net gives 8 channels"),
        ({"cross_attention_dim": 32}, "cannot be loaded: its U-Net's cross_attention_dim is 32.*of width 16"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is text_time, but the condition here is"),
        ({"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type is image_proj"),
        ({"num_class_embeds": 10}, "num_class_embeds is 10"),
        ({"class_embed_type": "timestep"}, "class_embed_type is timestep"),
        ({"_class_name": "UNetMotionModel"}, "its U-Net is a UNetMotionModel"),
    ],
)
def test_a_unet_for_something_else_is_refused_unread(copy, changes, message):
    edit_json(copy / "unet/config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        checkpoints.resolve(copy)
    assert str(caught.value).startswith(f"{copy}: cannot be loaded: ")


def test_a_text_encoder_of_another_kind_is_refused(copy):
    edit_json(copy / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])
    with pytest.raises(ValueError, match="its text_encoder is a T5EncoderModel; expected CLIPTextModel"):
        checkpoints.resolve(copy)


@pytest.mark.parametrize("scheduler", [None, "ddim"])
@pytest.mark.parametrize(
    "config",
    [
        diffusers.FlowMatchEulerDiscreteScheduler().config,
        diffusers.EDMEulerScheduler().config,
        {**diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True).config},
    ],
)
def test_a_scheduler_of_another_family_is_refused(copy, capsys, config, scheduler):
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps(dict(config)))
    more = () if scheduler is None else ("--scheduler", scheduler)
    status, _, said = run_program(
        capsys, "generate", "a circle", "--model", copy, *more, "-o", copy / "x.png"
    )
    assert status == errors.MISTAKE
    assert "is a scheduler of another family" in said
    assert len(said.splitlines()) == 1


STOCK = diffusers.PNDMScheduler(  # of Stable Diffusion 1.5
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
    set_alpha_to_one=False,
)  # fmt: skip


@pytest.mark.parametrize("name", [None, *checkpoints.SCHEDULERS])
def test_more_steps_than_the_schedule_has_are_refused_and_as_many_work(copy, name):
    short = diffusers.PNDMScheduler.from_config(STOCK.config, num_train_timesteps=120)
    short.save_pretrained(copy / "scheduler")
    most = checkpoints.max_steps(copy, name)
    assert 100 < most < 120
    pipeline = checkpoints.load(copy, device="cpu")
    pipeline.set_progress_bar_config(disable=True)
    if name is not None:
        checkpoints.use_scheduler(pipeline, name)
    with pytest.raises(ValueError, match="120 steps: are more than .* can take on this model's schedule"):
        pipeline("a circle", num_frames=1, num_inference_steps=120)
    settings = {"output_type": "latent", "guidance_scale": 1.0}
    frames = pipeline("a circle", num_frames=1, num_inference_steps=most, **settings).frames
    assert frames.isfinite().all()


def test_the_command_refuses_too_many_steps_before_it_loads(copy, capsys, monkeypatch):
    STOCK.save_pretrained(copy / "scheduler")
    monkeypatch.setattr(systems, "load", lambda *_, **__: pytest.fail("loaded a model"))
    for scheduler in ("ddim", "dpm++"):
        arguments = ["--scheduler", scheduler, "--steps", "1000", "--frames", "1", "-o", copy / "x.png"]
        status, _, said = run_program(capsys, "generate", "a circle", "--model", copy, *arguments)
        assert status == errors.MISTAKE
        assert "--steps 1000: this model's noise schedule has room for 99" in said


def test_a_lora_of_whole_numbers_is_refused_and_its_alphas_may_be(tmp_path):
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {f"{name}.lora_A.weight": torch.ones(2, 24), f"{name}.lora_B.weight": torch.ones(24, 2)}
    file = tmp_path / "lora.safetensors"
    save_file({key: one.to(torch.int8) for key, one in lora.items()}, file)
    with pytest.raises(ValueError, match=r"2 of its 2 weights are I8, whole numbers without their scales"):
        checkpoints.check_loras([str(file)])
    save_file({**lora, f"{name}.alpha": torch.tensor(2)}, file)
    assert len(checkpoints.check_loras([str(file)])) == 1


def test_weights_that_were_not_fetched_to_their_end_are_named(copy):
    file = copy / "unet/diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(ValueError, match="model.safetensors: ends in zeros: it was not fetched to its end"):
        checkpoints.load(copy, device="cpu")


def test_quantized_weights_and_configs_of_another_class_are_named(copy):
    edit_json(copy / "vae/config.json", block_out_channels=[8])
    with pytest.raises(ValueError, match=r"vae: cannot be loaded: its config makes no AutoencoderKL of diff"):
        checkpoints.load(copy, device="cpu")
    edit_json(copy / "unet/config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(
        ValueError, match=r"unet/config.json: its weights are quantized \(bitsandbytes\); exp"
    ):
        checkpoints.load(copy, device="cpu")


def test_a_model_of_which_one_part_is_of_half_precision_loads(copy):
    file = copy / "unet/diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert checkpoints.load(copy, device="cpu").vae is not None


def test_weights_without_a_place_are_told(copy):
    """As those of motion modules, or of a larger network than the config's."""
    edit_weights(copy, "unet", lambda tensors: [*tensors, ("motion.x", torch.ones(2))])
    old = ("text_model.embeddings.position_ids", torch.arange(4)[None])
    edit_weights(copy, "text_encoder", lambda tensors: [*tensors, old])
    with pytest.warns(UserWarning, match="have no place") as caught:
        checkpoints.load(copy, device="cpu")
    (message,) = {str(one.message) for one in caught if "have no place" in str(one.message)}
    assert "model.safetensors: 1 of its" in message
    assert "left out, the first motion.x" in message


def test_a_part_that_only_the_index_has_is_named(copy):
    index = json.loads((copy / "model_index.json").read_text())
    names = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit_json(copy / "model_index.json", safety_checker=names)
    with pytest.raises(ValueError, match="names the part safety_checker, and there is no such folder"):
        checkpoints.load(copy, device="cpu")
    edit_json(copy / "model_index.json", **{**index, "motion_adapter": ["diffusers", "MotionAdapter"]})
    with pytest.warns(UserWarning, match="names the part motion_adapter, which has no place in this layout"):
        assert checkpoints.load(copy, device="cpu").safety_checker is None


def test_a_folder_is_no_lora(tmp_path):
    save_file({"lora": torch.ones(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(
        ValueError, match=r"is a folder; name a LoRA file in it \(there is pytorch_lora_weights"
    ):
        checkpoints.check_loras([str(tmp_path)])


def test_temporal_layers_without_the_systems_file_are_not_passed_over(copy):
    save_file({"x": torch.ones(1)}, copy / "temporal.safetensors")
    with pytest.raises(ValueError, match="system.json: is missing, which says what the layers of temporal"):
        systems.load(copy)


def test_a_tokenizer_of_a_later_release_is_a_line(copy):
    file = copy / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "pre_tokenizer": {"type": "Later"}}))
    with pytest.raises(ValueError, match="copy: its tokenizer cannot be loaded: "):
        checkpoints.load(copy, device="cpu")
    with pytest.raises(ValueError, match="copy: its tokenizer cannot be loaded: "):
        load_text_encoder(copy)
    with pytest.raises(ValueError, match="tokenizer: its tokenizer cannot be loaded: "):
        load_tokenizer(copy / "tokenizer", padding="!", length=8)
