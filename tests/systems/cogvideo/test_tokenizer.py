"""Frames to tokens and back: the codebook, its training, and the folder that stock tools open."""

import pytest
import torch
from diffusers import VQModel
from torch.testing import assert_close

from latent_shift.autoencoder import to_model_range, to_uint8
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.cogvideo.token_dataset import to_digits, to_tokens
from latent_shift.systems.cogvideo.tokenizer import FrameTokenizer, QuantizerConfig
from latent_shift.systems.cogvideo.tokenizer_task import TokenizerTask, perplexity

SMALL = {
    "latent_channels": 8,
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
FRAMES = torch.randint(256, (3, 32, 48, 3), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(params=["vq", "fsq"])
def tokenizer(request):
    """A tokenizer; its codebook has followed one batch."""
    torch.manual_seed(0)
    made = FrameTokenizer(SMALL, QuantizerConfig(kind=request.param, codebook_size=16))
    made.quantize(made.vq.encode(to_model_range(FRAMES)).latents, seed=1)
    return made.eval()


def test_tokens_are_in_range_and_look_up_the_quantized_features(tokenizer):
    latents = tokenizer.vq.encode(to_model_range(FRAMES)).latents
    quantized, tokens, _ = tokenizer.quantize(latents)
    assert (tokens.shape, tokens.dtype) == ((3, 4, 6), torch.long)
    assert 0 <= tokens.min() <= tokens.max() < len(tokenizer.codes)
    assert len(tokens.unique()) > 2
    assert_close(tokenizer.look_up(tokens), quantized)
    assert torch.equal(tokenizer.encode(FRAMES), tokens)
    assert torch.equal(tokenizer.encode(FRAMES, chunk=2), tokens)
    decoded = tokenizer.decode(tokens, chunk=2)
    assert decoded.shape == FRAMES.shape
    assert (decoded.int() - to_uint8(tokenizer.decode_latents(quantized)).int()).abs().max() <= 1


def test_every_latent_gets_its_nearest_code(tokenizer):
    if tokenizer.config.kind == "fsq":
        return
    latents = tokenizer.vq.encode(to_model_range(FRAMES)).latents
    nearest = torch.cdist(latents.permute(0, 2, 3, 1).flatten(0, 2), tokenizer.codes).argmin(dim=1)
    assert torch.equal(tokenizer.quantize(latents)[1].flatten(), nearest)


def test_gradients_pass_straight_through_to_the_encoder(tokenizer):
    tokenizer.train()
    latents = tokenizer.vq.encode(to_model_range(FRAMES)).latents
    quantized, _, commitment = tokenizer.quantize(latents, seed=1)
    (tokenizer.decode_latents(quantized).square().mean() + commitment).backward()
    for part in (tokenizer.vq.encoder, tokenizer.vq.decoder):
        assert all(parameter.grad.abs().max() > 0 for parameter in part.parameters())
    assert commitment > 0 or tokenizer.config.kind == "fsq"


def test_random_numbers_of_the_codebook_are_the_seeds():
    torch.manual_seed(0)
    latents, states = torch.randn(2, 4, 4, 4), []
    for seed in (5, 5, 6):
        tokenizer = FrameTokenizer({**SMALL, "latent_channels": 4}, QuantizerConfig(codebook_size=16))
        before = torch.get_rng_state()
        tokenizer.quantize(latents, seed=seed)  # the k-means start
        tokenizer.quantize(latents, seed=seed + 1)  # dead codes
        assert torch.equal(torch.get_rng_state(), before)
        states.append(tokenizer.codes.clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_evaluation_changes_nothing(tokenizer):
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    for mode in (True, False):
        tokenizer.train(mode)
        tokenizer.encode(FRAMES)
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_a_saved_tokenizer_is_the_same_and_opens_in_stock_diffusers(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = FrameTokenizer.load(tmp_path).eval()
    tokens = tokenizer.encode(FRAMES)
    assert again.config == tokenizer.config
    assert again.hash() == tokenizer.hash()
    assert torch.equal(again.encode(FRAMES), tokens)
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tokenizer.state_dict().items())
    stock = VQModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        if tokenizer.config.kind == "vq":
            _, _, (_, _, indices) = stock.quantize(stock.encode(to_model_range(FRAMES)).latents)
            assert torch.equal(indices.view_as(tokens), tokens)
        looked_up = stock.quantize.get_codebook_entry(tokens.flatten(), (3, 4, 6, tokenizer.codes.shape[1]))
        images = stock.decode(looked_up, force_not_quantize=True).sample
    assert_close(images, tokenizer.decode_latents(tokenizer.look_up(tokens)))


@pytest.mark.slow
def test_over_half_of_the_codes_are_used_on_2000_frames(recipe, capsys):
    channels = {"latent_channels": 16, "block_out_channels": [4, 4, 8, 8], "norm_num_groups": 2}
    tiny = recipe("tokenizer", quantizer="vq", batch_size=32, autoencoder={**SMALL, **channels}, steps=8)
    assert tiny.quantizer == QuantizerConfig()
    torch.manual_seed(0)
    task = TokenizerTask(tiny)
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.003)
    data, losses = task.dataset(print), []
    for step in range(tiny.steps):
        frames = torch.stack([data[index]["frames"] for index in range(step * 32, step * 32 + 32)])
        metrics = task({"frames": frames}, StepRNG.of(step_seed(0, step), 32))
        optimizer.zero_grad()
        metrics["loss"].backward()
        optimizer.step()
        losses.append(metrics["loss"].item())
    assert losses[-1] < losses[0]
    frames = torch.from_numpy(data.scenes.frames(range(125))).flatten(0, 1)
    tokens = task.tokenizer.encode(frames)
    used = len(tokens.unique())
    with capsys.disabled():
        print(f"\n{used} of 1024 codes on 2000 frames, perplexity {perplexity(tokens, 1024):.0f}")
    assert tokens.shape == (2000, 8, 8)
    assert used > 512


def test_perplexity():
    assert perplexity(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx(4)
    assert perplexity(torch.tensor([[2, 2]]), 8) == pytest.approx(1)


@pytest.mark.parametrize("codes", [1024, 2048, 2049, 20_000, 2**23])
def test_tokens_are_exact_in_half_precision(codes):
    tokens = torch.cat([torch.tensor([0, codes - 1]), torch.randint(codes, (22,))]).view(2, 3, 2, 2)
    digits = to_digits(tokens, codes)
    assert digits.shape[-3] == (1 if codes <= 2048 else 2 if codes <= 2**22 else 3)
    assert torch.equal(to_tokens(digits.half()), tokens.flatten(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: the codebook of vq follows whole"),
        ({"crop": 36}, "crop, 36 pixels, is no multiple of the autoencoder's scale, 8"),
        ({"crop": 128}, "crop 128 is larger than the frames of source, 64x64"),
        ({"autoencoder": {**SMALL, "num_vq_embeddings": 4}}, "VQModel has no num_vq_embeddings"),
        ({"quantizer": "pq"}, "quantizer.kind: Input should be 'vq' or 'fsq', got 'pq'"),
    ],
)
def test_recipes_that_cannot_be_trained(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe("tokenizer", **changes)


def test_a_codebook_is_trained_in_one_process(recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="train in one process, or with quantizer: fsq"):
        recipe("tokenizer").check()
    recipe("tokenizer", quantizer="fsq").check()
