"""The prior: from captions to embeddings of stills."""

import pytest
import torch
from torch.utils.data import default_collate

from latent_shift import systems
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.base import GenerationRequest
from latent_shift.systems.make_a_video.cascade import stage_generators
from latent_shift.systems.make_a_video.prior import Prior


def test_it_learns_the_embeddings_of_a_few_stills(task):
    one = task("prior")
    data = one.dataset(None)
    batch = default_collate([data[index] for index in range(4)])
    rng = StepRNG.of(step_seed(0, 1), 4)
    optimizer = torch.optim.AdamW([one for one in one.parameters() if one.requires_grad], 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = one(batch, rng)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert one.prior.transformer.clip_std.grad is None
    target = one.still_encoder(batch["frames"][:, 0])
    torch.testing.assert_close(target.norm(dim=-1), torch.ones(4))


def test_of_several_draws_the_nearest_to_the_text_is_taken(task, models):
    prior, text = task("prior").prior, task("prior").text
    prompts, seeds = ["a red circle", "a green square"], [1, 2]
    _, pooled, tokens = text.embed(prompts)
    assert tokens.sum(dim=1).tolist() == [5, 5]  # three words between the tokens of start and end
    made = prior.sample(text, prompts, stage_generators(seeds, "prior"))
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(2))
    drawn = []
    generators = stage_generators(seeds, "prior")
    for _ in range(2):
        single = Prior(prior.transformer, prior.scheduler, prior.sampling.model_copy(update={"num_draws": 1}))
        drawn.append(single.sample(text, prompts, generators))
    products = torch.stack([(one * pooled).sum(dim=-1) for one in drawn])
    torch.testing.assert_close((made * pooled).sum(dim=-1), products.max(dim=0).values)
    alone = prior.sample(text, prompts[1:], stage_generators(seeds[1:], "prior"))
    torch.testing.assert_close(alone[0], made[1])


def test_it_is_the_same_after_saving_and_loading(task, tmp_path):
    one = task("prior")
    one.export(tmp_path)
    again = Prior.load(tmp_path / "prior")
    prompts = ["a red circle"]
    made = one.prior.sample(one.text, prompts, stage_generators([1], "prior"))
    torch.testing.assert_close(again.sample(one.text, prompts, stage_generators([1], "prior")), made)


def test_a_cascade_with_a_prior(assembled):
    system = systems.load(assembled("prior-video", "prior", "video_sr"), device="cpu")
    requests = [GenerationRequest(prompt=text, seed=1) for text in ("a red circle", "a green square")]
    clips = system.generate(requests)
    assert clips.shape == (2, 6, 32, 32, 3)
    assert (clips[0] != clips[1]).any()
    assert (system.generate(requests) == clips).all()
    with pytest.raises(ValueError, match="negative 'red': this model reads embeddings of stills"):
        system.generate([GenerationRequest(prompt="a circle", negative="red")])
    counted = system.parameters()
    assert set(counted.parts) == {"video", "video_sr", "prior", "text_encoder"}
    stills = systems.load(assembled("prior-image", "prior"), device="cpu")
    assert stills.generate(requests[:1]).shape == (1, 1, 16, 16, 3)


def test_encoders_of_different_widths(recipe_file, models, tmp_path):
    from transformers import VivitConfig, VivitModel

    from latent_shift.training.recipe import load_recipe
    from latent_shift.training.task import build_task

    config = VivitConfig(
        image_size=16, num_frames=2, tubelet_size=[2, 8, 8], hidden_size=8, intermediate_size=8,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    VivitModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "clip_tower")
    with pytest.raises(ValueError, match="its hidden_size is 8, the text encoder's 16"):
        build_task(load_recipe(recipe_file("prior", video_encoder_from=str(tmp_path))))
