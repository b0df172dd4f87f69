"""Tokens one after the other: cached as uncached, one clip as in a batch, known frames unchanged."""

import pytest
import torch
from torch.testing import assert_close

from latent_shift.systems.cogvideo.sampling import (
    FrameWriter,
    Guided,
    SamplingConfig,
    draw,
    interpolate,
    uniforms,
    write_frames,
)
from latent_shift.systems.cogvideo.temporal_attention import ChannelConfig
from latent_shift.systems.cogvideo.transformer import Text
from latent_shift.systems.cogvideo.transformer_tasks import token_loss
from tiny_cogvideo import (
    BETWEEN,
    CODES,
    HALVING,
    IN_ORDER,
    TOKENS,
    opened,
    rows,
    tiny_text,
    tiny_tokens,
    tiny_transformer,
)

FREE, BEST = SamplingConfig(top_k=CODES), SamplingConfig(top_k=1)


def guided(count=2, scale=2.0):
    return Guided(tiny_text(count), scale, tiny_text(count, seed=5))


def numbers(count=2, frames=3, seed=4):
    torch.manual_seed(seed)
    return torch.rand(count, frames, TOKENS)


@pytest.fixture
def logits_of(monkeypatch):
    """Write frames; gives their tokens, and the logits (2 B, K) of every step."""
    seen = []
    mix = Guided.mix

    def spy(self, logits):
        seen.append(logits)
        return mix(self, logits)

    monkeypatch.setattr(Guided, "mix", spy)

    def write(*args, **options):
        seen.clear()
        return write_frames(*args, **options), torch.stack(seen)

    return write


# ---- the cache ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("config", [IN_ORDER, BETWEEN, HALVING], ids=["in order", "between", "halving"])
def test_cached_logits_are_the_uncached_ones_at_every_prefix(logits_of, config, window, crop):
    base = tiny_transformer()
    channel = opened(base.new_channel(config.model_copy(update={"attention_window": window})))
    known = tiny_tokens(frames=len(config.known)) if config.known else None
    texts = guided()
    made, steps = logits_of(
        base, channel, texts, rows(), numbers(frames=len(config.unknown)), FREE, given=known, crop=crop
    )
    whole = base(texts.texts, texts.expand(made), channel, texts.expand(rows()))
    assert len(steps) == len(config.unknown) * TOKENS
    assert_close(steps, whole[:, list(config.unknown)].flatten(1, 2).transpose(0, 1), atol=2e-5, rtol=2e-5)
    if config.known:
        assert torch.equal(made[:, list(config.known)], known)


def test_cached_logits_of_images_and_without_guidance(logits_of):
    base, text = tiny_transformer(), tiny_text()
    made, steps = logits_of(base, None, Guided(text), None, numbers(frames=1), FREE)
    assert_close(steps.transpose(0, 1), base(text, made)[:, 0], atol=2e-5, rtol=2e-5)


def test_cropping_keeps_the_prefix_and_one_frame_in_bases_cache():
    base = tiny_transformer()
    lengths = {}
    for crop in (True, False):
        channel = opened(base.new_channel(IN_ORDER))
        writer = FrameWriter(base, channel, guided(), rows(), range(3), crop=crop)
        for last in (False, False, True):
            writer.write(numbers()[:, 0], FREE, lambda: None, last=last)
        lengths[crop] = [layer.get_seq_length() for layer in writer.cache.layers]
    whole = base.prefix + 3 * base.length - 1  # the last token is not read
    assert lengths[False] == [whole] * 4
    assert lengths[True] == [base.prefix + base.length - 1] * 2 + [whole] * 2


def test_given_first_frames_count_as_written(logits_of):
    base = tiny_transformer()
    channel, texts = opened(base.new_channel(IN_ORDER)), guided()
    made, _ = logits_of(base, channel, texts, rows(), numbers(), FREE)
    again, steps = logits_of(base, channel, texts, rows(), numbers()[:, 1:], FREE, given=made[:, :1])
    assert torch.equal(again, made)
    assert len(steps) == 2 * TOKENS


# ---- drawing -----------------------------------------------------------------------------------------


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(1000, 4)
    grid = (torch.arange(1000) + 0.5) / 1000
    counts = [
        torch.bincount(draw(logits, grid, SamplingConfig(**changes)), minlength=4).tolist()
        for changes in (
            {"temperature": 1.0, "top_k": 4},
            {"temperature": 1.0, "top_k": 2},
            {"top_k": 1},
            {"temperature": 0.5, "top_k": 99},
        )
    ]
    assert counts[0] == [100, 200, 300, 400]
    assert counts[1] == [0, 0, 429, 571]
    assert counts[2] == [0, 0, 0, 1000]
    assert counts[3] == pytest.approx([33, 133, 300, 533], abs=1)
    ends = draw(logits[:2], torch.tensor([0.0, 1.0]), SamplingConfig(top_k=2))
    assert ends.tolist() == [2, 3]


def test_guidance_moves_away_from_the_unconditional_text():
    texts = guided(1, scale=3.0)
    assert texts.mix(torch.tensor([[1.0, 2.0], [2.0, 0.0]])).tolist() == [[4.0, -4.0]]
    assert Guided(texts.text).mix(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


def test_only_codes_of_images_come_out():
    base = tiny_transformer(text="tokens")
    text = Text(torch.randint(8, (2, 5)), tiny_text().visible)
    with torch.no_grad():  # the start token and the pieces of text would win
        base.glm.lm_head.weight[CODES:] *= 50
    channel = opened(base.new_channel(IN_ORDER))
    made = write_frames(base, channel, Guided(text), rows(), numbers(), FREE)
    assert made.shape == (2, 3, TOKENS)
    assert 0 <= made.min() <= made.max() < CODES


def test_a_clip_does_not_depend_on_its_batch():
    base = tiny_transformer()
    channel, between = opened(base.new_channel(IN_ORDER)), opened(base.new_channel(BETWEEN))
    texts, drawn, more = guided(4), numbers(4), numbers(4, 4).view(4, 2, 2, TOKENS)

    def make(part):
        some = Guided(
            *(Text(one.content[part], one.visible[part]) for one in (texts.text,)),
            texts.scale,
            Text(texts.unconditional.content[part], texts.unconditional.visible[part]),
        )
        count = len(some.text.content)
        keys = write_frames(base, channel, some, rows(count), drawn[part], FREE)
        return interpolate(base, between, some, rows(count), keys, more[part], FREE)

    together = make(slice(None))
    assert together.shape == (4, 7, TOKENS)
    for clip in range(4):
        assert torch.equal(make(slice(clip, clip + 1)), together[clip : clip + 1])


def test_numbers_come_from_each_clips_generator():
    drawn = uniforms([torch.Generator().manual_seed(seed) for seed in (1, 2)], 3, 4)
    assert drawn.shape == (2, 3, 4)
    assert torch.equal(drawn[1], torch.rand(3, 4, generator=torch.Generator().manual_seed(2)))


def test_greedy_sampling_of_an_overfitted_batch_gives_the_batch_back():
    base, text = tiny_transformer(), tiny_text()
    base.requires_grad_(False)
    config = ChannelConfig(num_frames=2, frame_rates=(2.0,))
    channel, tokens = base.new_channel(config), tiny_tokens(frames=2)
    tokens[1, 0] = tokens[0, 0]  # so that what follows depends on the text
    optimizer = torch.optim.Adam(channel.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss = token_loss(base(text, tokens, channel, rows()), tokens)
        loss.backward()
        optimizer.step()
    assert loss < 0.5
    made = write_frames(base, channel, Guided(text), rows(), numbers(frames=2), BEST)
    assert torch.equal(made, tokens)


# ---- frames between known ones -----------------------------------------------------------------------


def test_interpolation_keeps_known_frames_and_depends_on_them():
    base = tiny_transformer()
    channel, known = opened(base.new_channel(BETWEEN)), tiny_tokens(frames=3)
    drawn = numbers(frames=4).view(2, 2, 2, TOKENS)
    made = interpolate(base, channel, guided(), rows(), known, drawn, FREE)
    assert made.shape == (2, 7, TOKENS)
    assert torch.equal(made[:, ::3], known)
    other = known.clone()
    other[:, 2] = (other[:, 2] + 1) % CODES
    changed = interpolate(base, channel, guided(), rows(), other, drawn, FREE)
    assert torch.equal(changed[:, :4], made[:, :4])  # the first window has its own known frames
    assert (changed[:, 4:6] != made[:, 4:6]).any()


def test_the_papers_halving():
    base = tiny_transformer()
    channel, frames = opened(base.new_channel(HALVING)), tiny_tokens(1, frames=5)
    lengths, written = [5], 0

    def count():
        nonlocal written
        written += 1

    for row in range(3):
        windows = (frames.shape[1] - 1) // 2
        drawn = numbers(1, windows * 2).view(1, windows, 2, TOKENS)
        known = frames
        frames = interpolate(base, channel, guided(1), rows(1, row + 1), known, drawn, FREE, on_token=count)
        assert torch.equal(frames[:, ::2], known)
        lengths.append(frames.shape[1])
    assert lengths == [5, 9, 17, 33]
    assert written == 3 * 2 * TOKENS  # windows of one pass are a batch
