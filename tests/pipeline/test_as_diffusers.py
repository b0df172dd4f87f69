"""What callers of diffusers pipelines expect: keywords, properties, callbacks, flags, uploads, many clips."""

import inspect
import warnings
from threading import Thread

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import ModelCard
from peft import LoraConfig
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from latent_shift import LatentShiftPipeline, checkpoints
from latent_shift.pipeline import LatentShiftXLPipeline, denoising
from latent_shift.unet import enable_temporal_shift
from latent_shift.video_config import UNTUNED_XL, VideoConfig
from tiny import VIDEO_CONFIG, tiny_components, tiny_pipeline_folder
from tiny_xl import tiny_xl_components, tiny_xl_folder

PROMPT = "a red circle moves left"
OTHER = "a green square grows"
LAYOUTS = {
    "sd": (LatentShiftPipeline, StableDiffusionPipeline, tiny_components),
    "xl": (LatentShiftXLPipeline, StableDiffusionXLPipeline, tiny_xl_components),
}
FAST = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 32}


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def pipeline(layout):
    ours, _, components = LAYOUTS[layout]
    made = ours(**components())
    made.video_config = VideoConfig(**VIDEO_CONFIG)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def stock(layout):
    _, stock, components = LAYOUTS[layout]
    made = stock(**components())
    made.set_progress_bar_config(disable=True)
    return made


def clips(pipeline, prompt=PROMPT, **call):
    return pipeline(prompt, output_type="pt", **{"generator": seeded(1), **call}).frames


def assert_image_as_in_stock(pipeline, stock, **call):
    call = {**FAST, **call}
    expected = stock(PROMPT, generator=seeded(1), output_type="pt", **call).images
    assert torch.equal(clips(pipeline, num_frames=1, **call)[:, 0], expected)


def test_every_keyword_of_the_stock_pipeline(pipeline, stock):
    ours, theirs = (set(inspect.signature(one.__call__).parameters) for one in (pipeline, stock))
    assert theirs - ours == {"kwargs"}


@pytest.mark.parametrize(
    "call",
    [{"clip_skip": 1}, {"guidance_rescale": 0.7}, {"num_images_per_prompt": 2}, {"eta": 0.5}],
    ids=lambda call: next(iter(call)),
)
def test_one_frame_equals_stock_with(pipeline, stock, call, layout):
    if layout == "sd" and "clip_skip" in call and not hasattr(stock.text_encoder, "text_model"):
        vars(stock.text_encoder)["text_model"] = stock.text_encoder  # for which diffusers looks in vain
    assert_image_as_in_stock(pipeline, stock, **call)
    assert pipeline.clip_skip == call.get("clip_skip")
    assert pipeline.guidance_rescale == call.get("guidance_rescale", 0)


@pytest.mark.parametrize("given", [{"timesteps": [900, 500, 100]}, {"sigmas": [10.0, 3.0, 1.0, 0.0]}])
def test_timesteps_and_sigmas(pipeline, stock, given):
    for one in (pipeline, stock):
        one.scheduler = EulerDiscreteScheduler(timestep_spacing="linspace")
    assert_image_as_in_stock(pipeline, stock, **given, num_inference_steps=None)
    assert pipeline.num_timesteps == 3
    with pytest.raises(ValueError, match="[Oo]nly one of"):
        pipeline(PROMPT, timesteps=[1], sigmas=[1.0])
    for wrong in ([], [1, 500, 999], [2000, 500], [5, -1]):
        with pytest.raises(ValueError, match="expected falling numbers from at most 999 to 0"):
            pipeline(PROMPT, timesteps=wrong)


def test_layers_of_the_text_encoder_that_cannot_be_skipped(pipeline, layout):
    layers = pipeline.text_encoder.config.num_hidden_layers - (layout == "xl")
    for wrong in (layers + 1, -1, 1.5):
        with pytest.raises(ValueError, match=f"clip_skip={wrong}: expected 0 to {layers} layers"):
            clips(pipeline, clip_skip=wrong)
    clips(pipeline, clip_skip=layers)


def test_all_steps_are_guided_at_timesteps_below_zero(pipeline, stock):
    options = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    for one in (pipeline, stock):
        one.scheduler = EulerDiscreteScheduler(**options)
    assert_image_as_in_stock(pipeline, stock)
    assert pipeline.scheduler.timesteps[-1] < 0
    with pytest.raises(ValueError, match="timesteps of this EulerDiscreteScheduler are not within 0 to 999"):
        clips(pipeline, guidance_interval=(0.2, 0.8))


def test_the_scale_of_lora_layers(pipeline, stock):
    for one in (pipeline, stock):
        torch.manual_seed(0)
        one.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    half = {"cross_attention_kwargs": {"scale": 0.5}}
    assert_image_as_in_stock(pipeline, stock, **half)
    assert pipeline.cross_attention_kwargs == {"scale": 0.5}
    assert not torch.equal(clips(pipeline, **half), clips(pipeline))


def test_the_keywords_of_sdxl(layout, pipeline, stock):
    calls = [
        {"prompt_2": OTHER, "negative_prompt": "", "negative_prompt_2": "a black square"},
        {"original_size": (64, 64), "crops_coords_top_left": (4, 8), "target_size": (16, 16)},
        {"negative_original_size": (8, 8), "negative_target_size": (4, 4)},
        {"denoising_end": 0.6},
    ]
    for call in calls:
        if layout == "xl":
            assert_image_as_in_stock(pipeline, stock, **call)
            assert not torch.equal(clips(pipeline, **call), clips(pipeline))
        elif "denoising_end" not in call:
            with pytest.raises(ValueError, match=f"{next(iter(call))} are for models of SDXL's layout"):
                clips(pipeline, **call)
    if layout == "xl":
        with pytest.raises(ValueError, match="prompt_2 for 1 prompts"):
            clips(pipeline, prompt_2=[OTHER, OTHER])
        with pytest.raises(ValueError, match=r"original_size=\(32,\): expected two whole numbers"):
            clips(pipeline, original_size=(32,))
        with pytest.warns(UserWarning, match="negative_prompt_2 alone has no effect"):
            assert_image_as_in_stock(pipeline, stock, negative_prompt_2="a black square")


def test_the_scale_of_lora_layers_changes_between_steps(pipeline):
    config = LoraConfig(r=2, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False)
    pipeline.unet.add_adapter(config, adapter_name="one")

    def without(pipe, step, timestep, tensors):
        pipe.unet.set_adapters(["one"], [0.0])

    def changed():
        pipeline.unet.set_adapters(["one"], [5.0])
        return clips(pipeline, callback_on_step_end=without)

    found = changed()
    pipeline.unet.set_attn_processor(AttnProcessor2_0())  # computes keys and values anew in each step
    assert torch.allclose(found, changed(), atol=1e-5)
    assert not torch.allclose(found, clips(pipeline), atol=1e-3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("name", "rows"),
    [("prompt_embeds", slice(-2, None)), ("negative_prompt_embeds", slice(2, 4))],  # of the last two frames
    ids=["text", "negative"],
)
def test_a_callback_may_write_into_the_embeddings_of_frames(pipeline, mode, name, rows):
    if name not in pipeline._callback_tensor_inputs:
        pytest.skip("callbacks of SDXL's layout do not get negative embeddings of their own")

    def writing(pipe, step, timestep, tensors):
        tensors[name][rows] += 1

    def exchanging(pipe, step, timestep, tensors):
        changed = tensors["prompt_embeds"].clone()  # whose first half is that of the negative prompt
        changed[rows] += 1
        return {"prompt_embeds": changed}

    with mode():
        found, expected = (
            clips(pipeline, callback_on_step_end=one, callback_on_step_end_tensor_inputs=[names])
            for one, names in ((writing, name), (exchanging, "prompt_embeds"))
        )
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, clips(pipeline), atol=1e-3)


def test_an_untuned_model_has_the_guidance_of_stock(tmp_path):
    untuned, stock = (LAYOUTS["xl"][kind](**tiny_xl_components()) for kind in (0, 1))
    call = {"num_inference_steps": 2, "generator": seeded(1), "output_type": "pt"}
    image = untuned(PROMPT, num_frames=1, **call).frames[:, 0]
    assert torch.equal(image, stock(PROMPT, **{**call, "generator": seeded(1)}).images)
    assert untuned.guidance_scale == 5.0
    assert checkpoints.video_config(tiny_xl_folder(tmp_path / "xl", latent_shift=False)) == UNTUNED_XL
    folder = tiny_pipeline_folder(tmp_path / "sd", latent_shift=False)
    assert checkpoints.video_config(folder) == VideoConfig()


def test_an_autoencoder_without_statistics():
    parts = {"vae": AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    ).eval()}  # fmt: skip
    pipeline, stock = (LAYOUTS["xl"][kind](**{**tiny_xl_components(), **parts}) for kind in (0, 1))
    assert_image_as_in_stock(pipeline, stock)


def test_text_is_encoded_by_a_pipeline_without_the_rest(pipeline, layout):
    """Text encoders alone encode; a pipeline without them makes of it the clip that a whole one makes."""
    texts = {name: part for name, part in pipeline.components.items() if "text" in name or "token" in name}
    parts = pipeline.components
    encoder = type(pipeline)(**{**dict.fromkeys(parts), **texts})
    kwargs = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    names = ("prompt_embeds", "negative_prompt_embeds")
    if layout == "xl":
        names += ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeds = dict(zip(names, encoder.encode_prompt(PROMPT, **kwargs), strict=True))
    denoiser = type(pipeline)(**{**parts, **dict.fromkeys(texts)})
    assert torch.equal(clips(denoiser, None, **embeds), clips(pipeline))


def test_from_pipe_and_back_keeps_the_configuration(pipeline, stock):
    back = type(stock).from_pipe(type(pipeline).from_pipe(stock))
    public = [{k: v for k, v in one.config.items() if not k.startswith("_")} for one in (back, stock)]
    assert public[0] == public[1]


# IP adapters


def load_ip_adapter(pipeline):
    """A random adapter for image embeddings of the width of the text, and its image encoder."""
    torch.manual_seed(4)
    unet, layers = pipeline.unet, {}
    width = unet.config.cross_attention_dim
    names = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(names):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part, like in (("k", attention.to_k), ("v", attention.to_v)):
            layers[f"{2 * number + 1}.to_{part}_ip.weight"] = torch.randn_like(like.weight)
    sizes = {
        "proj.weight": (4 * width, 8),
        "proj.bias": (4 * width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    projection = {name: torch.randn(size) for name, size in sizes.items()}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}])
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8,
        patch_size=4, projection_dim=8,
    )  # fmt: skip
    pipeline.image_encoder = CLIPVisionModelWithProjection(config).eval()
    pipeline.feature_extractor = CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )


def test_ip_adapters(pipeline, stock):
    without = clips(pipeline)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    embeds = [torch.randn(2, 1, 8, generator=seeded(5))]  # for no text, and for text
    with pytest.raises(ValueError, match="there is none: call load_ip_adapter first"):
        clips(pipeline, ip_adapter_image=image)
    for one in (pipeline, stock):
        load_ip_adapter(one)
    for given in ({"ip_adapter_image": image}, {"ip_adapter_image_embeds": embeds}):
        assert_image_as_in_stock(pipeline, stock, **given)
        pipeline.set_ip_adapter_scale(0.0)
        torch.testing.assert_close(clips(pipeline, **given), without, rtol=0, atol=1e-5)
        pipeline.set_ip_adapter_scale(1.0)
        clip = clips(pipeline, **given)
        assert not torch.allclose(clip, without, atol=1e-2)
        both = clips(pipeline, [PROMPT, OTHER], generator=seeded(1, 2), **given)
        torch.testing.assert_close(both[:1], clip, rtol=0, atol=1e-4)


def test_guidance_of_an_ip_adapter_ends(layout, pipeline):
    load_ip_adapter(pipeline)
    cutoff = {"sd": SDCFGCutoffCallback, "xl": SDXLCFGCutoffCallback}[layout]
    callback = cutoff(cutoff_step_ratio=None, cutoff_step_index=0)
    given = {"ip_adapter_image_embeds": [torch.randn(2, 1, 8, generator=seeded(5))]}
    assert torch.isfinite(clips(pipeline, callback_on_step_end=callback, **given)).all()
    assert pipeline.guidance_scale == 0


# Callbacks


@pytest.mark.parametrize("positions", [False, True])
def test_a_callback_ends_guidance_of_clips(layout, pipeline, positions):
    pipeline.video_config = pipeline.video_config.model_copy(update={"frame_position_embedding": positions})
    cutoff = {"sd": SDCFGCutoffCallback, "xl": SDXLCFGCutoffCallback}[layout]
    call = {"prompt": [PROMPT, OTHER], "generator": seeded(1, 2)}
    cut = clips(pipeline, **call, callback_on_step_end=cutoff(cutoff_step_ratio=None, cutoff_step_index=0))
    assert pipeline.guidance_scale == 0

    def by_hand(pipe, step, timestep, tensors):
        if step:
            return {}
        pipe._guidance_scale = 0.0
        return {name: tensor.chunk(2)[1] for name, tensor in tensors.items()}

    expected = clips(
        pipeline, **{**call, "generator": seeded(1, 2)}, callback_on_step_end=by_hand,
        callback_on_step_end_tensor_inputs=cutoff.tensor_inputs,
    )  # fmt: skip
    assert torch.equal(cut, expected)


# Safety, decoding


def test_flags_of_the_safety_checker():
    """A checker to which everything is unsafe blackens every frame, and says so."""
    part = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=part, vision_config={**part, "image_size": 8, "patch_size": 4}, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.concept_embeds_weights.data.fill_(-2)
    extractor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    parts = {"safety_checker": checker, "feature_extractor": extractor}
    pipeline = LatentShiftPipeline(**{**tiny_components(), **parts})
    pipeline.video_config = VideoConfig(**VIDEO_CONFIG)
    with pytest.warns(UserWarning, match="the safety checker blackened 8 of 8 frames"):
        made = pipeline([PROMPT, OTHER], output_type="np")
    assert made.nsfw_content_detected == [[True] * 4] * 2
    assert not made.frames.any()
    with pytest.warns(UserWarning, match="blackened"):
        assert len(pipeline([PROMPT, OTHER], return_dict=False)) == 2
    checker.concept_embeds_weights.data.fill_(2)
    checker.special_care_embeds_weights.data.fill_(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert pipeline(PROMPT).nsfw_content_detected == [[False] * 4]


def test_the_generators_reach_the_decoder(pipeline):
    seen, decode = [], pipeline.vae.decode

    def noting(latents, return_dict=True, generator=None):
        seen.append((len(latents), generator))
        return decode(latents, return_dict=return_dict)

    pipeline.vae.decode = noting
    own = seeded(1, 2)
    pipeline([PROMPT, OTHER], generator=own, decode_chunk_size=3)
    assert [count for count, _ in seen] == [3, 3, 2]
    assert [one for _, part in seen for one in part] == [own[0]] * 4 + [own[1]] * 4


# Mistakes


def test_the_same_twice_is_refused(pipeline):
    embeds = torch.zeros(1, 12, pipeline.unet.config.cross_attention_dim)
    with pytest.raises(ValueError, match="negative_prompt and negative_prompt_embeds are the same"):
        pipeline(PROMPT, negative_prompt="a", negative_prompt_embeds=embeds)
    with pytest.raises(ValueError, match="must have one shape"):
        pipeline(prompt_embeds=embeds, negative_prompt_embeds=embeds[:, :5])
    with pytest.raises(ValueError, match="num_videos_per_prompt=3 and num_images_per_prompt=2 are the same"):
        pipeline(PROMPT, num_videos_per_prompt=3, num_images_per_prompt=2)
    with pytest.raises(ValueError, match="ip_adapter_image and ip_adapter_image_embeds are the same"):
        pipeline(PROMPT, ip_adapter_image=1, ip_adapter_image_embeds=[embeds])
    with pytest.raises(ValueError, match="ip_adapter_image_embeds must be a list of tensors"):
        pipeline(PROMPT, ip_adapter_image_embeds=embeds)


def test_texts_without_a_text_encoder_are_refused(layout, pipeline):
    for name in ("text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if layout == "xl" else ())):
        setattr(pipeline, name, None)
    with pytest.raises(ValueError, match="has no text encoder: pass prompt_embeds"):
        pipeline(PROMPT)


# Textual inversion


def test_tokens_of_textual_inversion_are_known_words(pipeline):
    words = ("a", "circle", "moves", "left", "red")
    pipeline.video_config = pipeline.video_config.model_copy(update={"closed_vocabulary": words})
    pipeline.tokenizer.add_tokens(["<my-style>"])
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        clips(pipeline, "a red <my-style> circle")
    with pytest.warns(UserWarning, match="does not know 'square'.*ignored"):
        clips(pipeline, "a <my-style> square")


# Upload


def test_the_finished_folder_is_uploaded(pipeline, tmp_path, monkeypatch):
    uploads = []

    def upload_folder(repo_id, folder_path, **_):
        files = sorted(path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*"))
        uploads.append((repo_id, files, (folder_path / "text_encoder" / "config.json").read_text()))

    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload_folder)
    monkeypatch.setattr(
        "latent_shift.pipeline.folders.create_repo", lambda name, **_: type("Url", (), {"repo_id": name})
    )
    monkeypatch.setattr(
        "latent_shift.pipeline.folders.load_or_create_model_card", lambda *_, **__: ModelCard("# A model")
    )
    pipeline.to(torch.float16).save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="nobody/m")
    ((repo_id, files, config),) = uploads
    assert repo_id == "nobody/m"
    assert {"README.md", "latent_shift.json", "model_index.json", "unet/config.json"} <= set(files)
    assert '"dtype": "float32"' in config


# Memory


def test_many_clips_go_through_the_unet_in_groups(pipeline, monkeypatch):
    prompts, seeds = [PROMPT, OTHER, PROMPT], (1, 2, 3)
    together = clips(pipeline, prompts, generator=seeded(*seeds))
    sizes, forward = [], pipeline.unet.forward

    def noting(sample, *args, **kwargs):
        sizes.append(len(sample))
        return forward(sample, *args, **kwargs)

    pipeline.unet.forward = noting
    monkeypatch.setattr(denoising, "LATENT_PIXELS_AT_ONCE", 2 * 2 * 4 * 8 * 8)  # two clips under guidance
    grouped = clips(pipeline, prompts, generator=seeded(*seeds))
    assert sizes == [16, 8] * 3
    torch.testing.assert_close(grouped, together, rtol=0, atol=1e-5)
    sizes.clear()
    monkeypatch.setattr(denoising, "LATENT_PIXELS_AT_ONCE", 1)  # a clip is never divided
    clips(pipeline, prompts, generator=seeded(*seeds), guidance_scale=1.0)
    assert sizes == [4] * 9


# Several at once


def test_two_threads_on_one_unet(pipeline):
    """Calls with other frames, on one U-Net, give what each gives alone."""
    enable_temporal_shift(pipeline.unet, 1)
    others = [type(pipeline).from_pipe(pipeline, scheduler=type(pipeline.scheduler).from_config(
        pipeline.scheduler.config
    )) for _ in range(3)]  # fmt: skip
    frames = (1, 4, 3)
    for one in others:
        one.set_progress_bar_config(disable=True)
    expected = [clips(one, num_frames=count) for one, count in zip(others, frames, strict=True)]
    found = {}

    def make(number):
        found[number] = clips(others[number], num_frames=frames[number])

    threads = [Thread(target=make, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, clip in enumerate(expected):
        assert np.allclose(found[number], clip, atol=1e-6), number
