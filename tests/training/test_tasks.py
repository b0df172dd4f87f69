"""Every task, by itself: steps on tiny models lower its loss and move what is trained, no more."""

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from latent_shift.data.samplers import batch_sampler_for
from latent_shift.moving_shapes import Scenes, caption, image_caption, vocabulary
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.rng import StepRNG
from latent_shift.training.datasets import loader
from latent_shift.training.task import build_task
from latent_shift.training.tasks.denoising import end_of_clip_reference
from latent_shift.training.tasks.video_text_contrastive import contrastive_loss
from latent_shift.training.text_encoder import embed_texts
from latent_shift.unet import shift_options

TRAINED = {
    "text_contrastive": ("text_tower.", "scale."),
    "video_text_contrastive": ("clip_tower.", "scale."),
    "autoencoder": ("vae.",),
    "image": ("unet.",),
    "video": ("unet.",),
    "distillation": ("unet.",),
}


def rng(seed):
    return StepRNG.of(seed, batch_size=4)


DRAWS = rng(5)


def first_batch(recipe, module):
    data = module.dataset(lambda progress: None)
    return next(iter(loader(data, 4, 0, 0, workers=0, rank=0, world_size=1)))


@pytest.mark.parametrize("task", TRAINED)
def test_steps_lower_the_loss_and_reach_exactly_what_is_trained(recipe, task):
    torch.manual_seed(0)
    tiny = recipe(task)
    module = build_task(tiny)
    batch, before = first_batch(tiny, module), {n: p.clone() for n, p in module.named_parameters()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.003)
    losses, reached = [], set()
    for _ in range(12):
        loss = module(batch, DRAWS)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        reached |= {n for n, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]
    assert reached == {name for name in before if name.startswith(TRAINED[task])}
    assert {n for n, p in module.named_parameters() if not torch.equal(p, before[n])} == reached


def test_the_seed_decides_a_step(recipe):
    module = build_task(recipe("video"))
    batch = first_batch(None, module)
    first, again, other = (module(batch, rng(seed))["loss"].item() for seed in (1, 1, 2))
    assert first == again != other


def test_padding_to_the_longest_caption_changes_no_embedding(recipe):
    module = build_task(recipe("text_contrastive"))
    short, long = "a red star", "a small white ring moving up and to the left on a navy background"
    together = embed_texts(module.tokenizer, module.text_tower, [short, long])
    alone = embed_texts(module.tokenizer, module.text_tower, [short])
    assert torch.allclose(together[0], alone[0], atol=1e-6)


def test_wordings_are_of_one_content(recipe):
    pairs = build_task(
        recipe("text_contrastive", source={"format": "moving-shapes", "clips": 50, "paraphrases": 1.0})
    ).dataset(lambda progress: None)
    for visit in range(40):
        spoken, moves = pairs[visit]["caption"], visit % 4 != 0
        scene = pairs.clips[visit]
        assert spoken == (caption(scene) if moves else image_caption(scene))
    assert sum(pairs[v]["paraphrase"] != pairs[v]["caption"] for v in range(40)) > 20


def test_a_frozen_encoder_keeps_its_latents(recipe, parts, tmp_path):
    module = build_task(recipe("autoencoder", init_from=str(parts), freeze_encoder=True))
    before = {name: value.clone() for name, value in module.vae.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.003)
    module(first_batch(None, module), DRAWS)["loss"].backward()
    optimizer.step()
    module.vae.register_to_config(scaling_factor=0.7)
    module.export(tmp_path)
    kept = AutoencoderKL.from_pretrained(tmp_path / "vae")
    same = {name for name, value in kept.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith(("encoder.", "quant_conv."))}
    assert kept.config.scaling_factor == 0.7


def test_a_decoder_learns_from_latents_with_errors(recipe, parts):
    """Each image has its own strength, from 0 to half a standard deviation, the same in each run."""
    settings = {"init_from": str(parts), "freeze_encoder": True, "latent_noise": 0.5}
    module = build_task(recipe("autoencoder", **settings))
    module.vae.register_to_config(scaling_factor=0.25)
    latents = torch.zeros(1000, 4, 8, 8)
    generators = [torch.Generator().manual_seed(number) for number in range(1000)]
    strengths = module._errors_of_a_unet(latents, generators).flatten(1).std(dim=1) * 0.25
    assert strengths.min() < 0.01
    assert strengths.max() < 0.6
    assert 0.23 < strengths.mean() < 0.27
    batch = first_batch(None, module)
    noisy, again = (module(batch, DRAWS)["loss"].item() for _ in range(2))
    plain = build_task(recipe("autoencoder", **settings | {"latent_noise": 0.0}))
    assert noisy == again != plain(batch, DRAWS)["loss"].item()


def test_a_clip_tower_of_another_width_is_refused(recipe):
    tiny = recipe("video_text_contrastive")
    wide = {**tiny.video_encoder, "hidden_size": 32}
    with pytest.raises(ValueError, match="video_encoder: hidden_size is 32, but must be 16"):
        build_task(tiny.model_copy(update={"video_encoder": wide}))


def test_a_clip_is_told_from_sentences_that_are_nearly_true():
    own = torch.eye(3)
    alone = contrastive_loss(own, own, torch.tensor(5.0))
    far, near = torch.zeros(3, 2, 3), torch.stack([own, own.roll(1, 0)], dim=1)
    assert "hard_negative_accuracy" not in alone
    misled = contrastive_loss(own, own, torch.tensor(5.0), near)
    assert misled["hard_negative_accuracy"] == 0.0  # the first of the two is as near as the clip's own
    assert contrastive_loss(own, own, torch.tensor(5.0), far)["hard_negative_accuracy"] == 1.0
    by_hand = torch.cat([5 * own, 5 * (own[:, None] * near).sum(-1)], dim=1).softmax(dim=1).diagonal()
    other_way = (5 * own).softmax(dim=1).diagonal()
    torch.testing.assert_close(misled["loss"], -(by_hand.log().mean() + other_way.log().mean()) / 2)


@pytest.mark.slow
def test_images_are_mixed_in_as_the_recipe_says(recipe):
    def kinds(share):
        module = build_task(recipe("video", image_batch_ratio=share))
        batch = first_batch(None, module)
        with torch.no_grad():
            return [next(name for name in module(batch, rng(seed)) if name != "loss") for seed in range(20)]

    assert set(kinds(0.0)) == {"clip_loss"}
    assert set(kinds(1.0)) == {"image_loss"}
    assert set(kinds(0.5)) == {"clip_loss", "image_loss"}


def test_images_of_another_source_are_mixed_in(recipe, tmp_path):
    def with_images(task="video", *, side=None, **changes):
        latents = recipe(task).latents.model_dump(mode="json")
        source = {**latents["source"], "seed": 8}
        if side is not None:
            source["size"] = side
        return recipe(
            task,
            latents={**latents, "images": {"folder": str(tmp_path / "images"), "source": source}},
            **changes,
        )

    wanted = with_images(image_batch_ratio=0.5, image_batch_size=8)
    data = build_task(wanted).dataset(lambda progress: None)
    steps = iter(loader(data, 4, 0, 0, workers=0, rank=0, world_size=1))
    frames, scenes = set(), wanted.latents.images.source.captioned_clips()
    for _ in range(12):
        batch = next(steps)
        frames.add(batch["latents"].shape[1])
        assert len(batch["key"]) == (8 if batch["latents"].shape[1] == 1 else 4)
        if batch["latents"].shape[1] == 1:
            number = int(batch["key"][0].removeprefix("clip of latents.images "))
            told = {scenes.paraphrase(number + around * len(scenes), image=True) for around in range(40)}
            assert batch["image_caption"][0] in told
    assert frames == {1, wanted.latents.source.shape.num_frames}
    with pytest.raises(ValueError, match="latents.images: with image_batch_ratio 0 no batch has images"):
        with_images(image_batch_ratio=0.0)
    with pytest.raises(ValueError, match="its frames are 32x32, and those of the clips 64x64"):
        with_images(side=32).check()
    with pytest.raises(
        ValueError, match="image_batch_size 5 is no multiple of gradient_accumulation_steps 2"
    ):
        with_images(image_batch_size=5, gradient_accumulation_steps=2)
    odd = build_task(with_images(image_batch_ratio=0.5, image_batch_size=6)).dataset(lambda progress: None)
    with pytest.raises(ValueError, match="image_batch_size 6 cannot be shared evenly by 4 processes"):
        loader(odd, 4, 0, 0, workers=0, rank=0, world_size=4)
    with pytest.raises(ValueError, match="image_batch_size 8: is for images of a source of their own"):
        recipe("video", image_batch_size=8)
    with pytest.raises(ValueError, match="latents.images: it is for clips, and task image trains on single"):
        with_images("image")


@pytest.mark.parametrize("timesteps", [(0.0, 1.0), (0.4, 0.95)])
def test_clips_are_trained_on_the_asked_part_of_the_schedule_and_images_on_all_of_it(recipe, timesteps):
    def trained_on(share):
        tried = {"timestep_range": timesteps}
        module, seen = build_task(recipe("video", image_batch_ratio=share, experimental=tried)), []
        module.unet.register_forward_pre_hook(lambda unet, inputs: seen.extend(inputs[1].tolist()))
        batch = first_batch(None, module)
        with torch.no_grad():
            for seed in range(12):
                module(batch, rng(seed))
        return min(seen) / len(module.alphas), max(seen) / len(module.alphas)

    least, most = trained_on(0.0)
    assert timesteps[0] <= least < timesteps[0] + 0.05
    assert timesteps[1] - 0.05 < most < timesteps[1]
    least, most = trained_on(1.0)
    assert least < 0.02
    assert most > 0.98


def test_the_end_of_a_clip_is_told_by_what_is_there_and_what_was():
    clips = torch.zeros(2, 16, 1, 4, 4)
    clips[0, :, 0, 1, 1] = 1.0  # stands still
    clips[1, 12, 0, 0, 0] = clips[1, 15, 0, 3, 3] = 1.0  # moves
    told = end_of_clip_reference(clips)
    assert told.shape == (2, 1, 4, 4)
    assert told[0, 0, 1, 1] == 0.5
    assert (told[1, 0, 3, 3], told[1, 0, 0, 0]) == (1.0, -0.5)


@pytest.mark.slow
def test_chosen_noise_hints_at_a_clip_and_never_at_an_image(recipe):
    def likeness(share, choices):
        settings = {"diffusion": {"shared_noise_ratio": 1.0}, "experimental": {"noise_candidates": choices}}
        module, seen = build_task(recipe("video", image_batch_ratio=share, **settings)), []
        batch = first_batch(None, module)
        batch["latents"] = torch.randn(4, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        module.unet.register_forward_pre_hook(lambda unet, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            for seed in range(12):
                module(batch, rng(seed))
        shown = end_of_clip_reference(batch["latents"])
        noisy = torch.cat([one.view(4, 16, 4, 8, 8) for one in seen])
        # The last frame's own part grows with the signal; the first is another, so only noise can resemble.
        return float((noisy[:, 0] * shown.repeat(12, 1, 1, 1)).sum(dim=(1, 2, 3)).mean())

    assert likeness(0.0, 64) > likeness(0.0, 1) + 5.0
    assert likeness(1.0, 64) == likeness(1.0, 1)


def test_clips_are_told_their_frames_places_and_images_are_not(recipe):
    def losses(share, told):
        module = build_task(
            recipe("video", image_batch_ratio=share, experimental={"frame_position_embedding": told})
        )
        with torch.no_grad():
            return module(first_batch(None, module), rng(1))["loss"].item()

    assert losses(0.0, True) != losses(0.0, False)
    assert losses(1.0, True) == losses(1.0, False)


def test_captions_that_the_text_model_does_not_read_to_their_end_are_warned_of_once(recipe):
    module = build_task(recipe("video", image_batch_ratio=0.0))
    batch = first_batch(None, module)
    batch["caption"][1] = "a red circle " * 60
    with torch.no_grad(), pytest.warns(UserWarning, match=r"reads \d+ tokens.*'a red circle a .*cut off"):
        module(batch, DRAWS)
    with torch.no_grad():
        module(batch, DRAWS)  # a second warning would be an error here


def test_the_shift_is_on_for_clips_alone(recipe):
    assert shift_options(build_task(recipe("image")).unet) is None
    assert shift_options(build_task(recipe("video", shift=None)).unet) is None
    assert shift_options(build_task(recipe("video", shift={"place": "input"})).unet).place == "input"


def test_an_exported_model_opens_in_the_stock_pipeline(recipe, tmp_path):
    module = build_task(recipe("video"))
    module.export(tmp_path / "model")
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    ours = LatentShiftPipeline.from_pretrained(tmp_path / "model")
    assert not set(stock.unet.state_dict()) ^ set(module.unet.state_dict())
    settings = ours.video_config
    assert (settings.video_tuned, settings.num_frames, settings.height, settings.width) == (True, 16, 64, 64)
    assert (settings.shared_noise_ratio, settings.guidance_scale, settings.num_inference_steps) == (
        0.5,
        2.0,
        2,
    )
    assert settings.closed_vocabulary == tuple(vocabulary())
    prompt = "a Red circle on a navy background"
    for pipeline in (stock, ours):
        pipeline.set_progress_bar_config(disable=True)
    theirs = stock(
        prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np"
    )
    images = ours(
        prompt, num_frames=1, guidance_scale=7.5, generator=torch.Generator().manual_seed(1), output_type="np"
    )
    assert (theirs.images == images.frames[:, 0]).all()
    with pytest.warns(UserWarning, match="does not know 'frogs', 'are' of .*: ignored"):
        ours("frogs are red", num_frames=1, output_type="np")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"in_channels": 8, "out_channels": 8}, "unet: the U-Net's in_channels is 8, but must be 4"),
        ({"cross_attention_dim": 8}, "unet: the U-Net's cross_attention_dim is 8, but must be 16"),
        ({"sample_size": 4}, "unet: the U-Net's sample_size is 4, but must be 8"),
    ],
)
def test_parts_that_do_not_fit_are_told(recipe, change, error):
    tiny = recipe("image")
    with pytest.raises(ValueError, match=error):
        build_task(tiny.model_copy(update={"unet": {**tiny.unet, **change}}))


def test_it_begins_on_the_way_to_another_model(recipe, parts, tmp_path):
    def toward(name):
        return {"interpolate_with": {"model": str(tmp_path / name), "alpha": 0.5}}

    torch.manual_seed(1)
    config = recipe("image").unet
    other = UNet2DConditionModel(**config)
    other.save_pretrained(tmp_path / "other" / "unet")
    plain = build_task(recipe("video")).unet.state_dict()
    experimental = {"interpolate_with": {"model": str(tmp_path / "other"), "alpha": 0.25}}
    between = build_task(recipe("video", experimental=experimental)).unet.state_dict()
    assert between.keys() == plain.keys()
    for name, end in other.state_dict().items():
        assert torch.equal(between[name], torch.lerp(plain[name], end, 0.25)), name
    wide = UNet2DConditionModel(**{**config, "block_out_channels": [16, 24]})
    wide.save_pretrained(tmp_path / "wide" / "unet")
    with pytest.raises(ValueError, match="interpolate_with.model: the U-Net in .*wide has other weights"):
        build_task(recipe("video", experimental=toward("wide")))
    with pytest.raises(ValueError, match="interpolate_with.model: .*none has no unet/: train the"):
        build_task(recipe("video", experimental=toward("none")))


@pytest.mark.parametrize("task", ["image", "video"])
def test_clips_told_with_a_word_come_as_often_as_asked(recipe, task):
    latents = recipe(task).latents
    word = Scenes(latents.source).caption(2).split()[-2]  # "... on a teal background"
    often = recipe(task, experimental={"oversample_words": [word], "oversample_ratio": 1.0})
    items = build_task(often).dataset(lambda _: None)
    sampler = batch_sampler_for(items, 4, 0)
    seen = {visit % len(items) // items.frames for step in range(8) for visit in sampler.indices(step)}
    assert seen == {clip for clip in range(4) if word in items.captions.caption(clip).split()}
    words = {"oversample_words": [word, "plaid"], "oversample_ratio": 0.5}
    unknown = build_task(recipe(task, experimental=words))
    with pytest.raises(ValueError, match="oversample_words: no clip's canonical caption has the word plaid"):
        unknown.dataset(lambda _: None)


def test_every_third_frame_is_six_of_a_clip(recipe):
    content = recipe("video").latents
    strided = recipe("video", latents={**content.model_dump(mode="json"), "frame_stride": 3})
    module, whole = build_task(strided), build_task(recipe("video"))
    six, sixteen = first_batch(None, module)["latents"], first_batch(None, whole)["latents"]
    assert torch.equal(six, sixteen[:, ::3])
    module.set_video_config()
    assert module.pipeline.video_config.num_frames == 6
    assert module.pipeline.video_config.fps == pytest.approx(8 / 3)
