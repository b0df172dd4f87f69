"""The two channels of attention: who sees whom, what images keep, where gradients go, and the sizes."""

import pytest
import torch
from torch.testing import assert_close
from transformers import Glm4ForCausalLM

from latent_shift.systems.cogvideo.temporal_attention import (
    ChannelConfig,
    Layout,
    Squares,
    attend,
    base_mask,
    plus_mask,
)
from latent_shift.systems.cogvideo.transformer import ImageTransformer, TransformerConfig
from latent_shift.systems.cogvideo.transformer_tasks import token_loss
from tiny_cogvideo import BETWEEN, CODES, IN_ORDER, opened, rows, tiny_text, tiny_tokens, tiny_transformer

PREFIX, LENGTH = 4, 5  # of masks: three tokens of text, frames of 2 x 2 tokens
VISIBLE = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1]]).bool()


@pytest.fixture
def base():
    return tiny_transformer()


# ---- masks ------------------------------------------------------------------------------------------


def square(place, side, shift):
    token = max(place - 1, 0)
    return (token // 2 + shift) // side, (token % 2 + shift) // side


def slow_masks(frames, known, side=None, shift=0):
    """Both planes by loops over clips, queries and keys, as the specification has them."""
    places = [(None, place) for place in range(PREFIX)]
    places += [(frame, place) for frame in frames for place in range(LENGTH)]
    size = len(places)
    planes = torch.zeros(2, len(VISIBLE), size, size, dtype=torch.bool)
    for clip in range(len(VISIBLE)):
        for q, (f, k) in enumerate(places):
            for c, (g, m) in enumerate(places):
                text = g is None
                if text and not VISIBLE[clip, m]:
                    continue
                base = text or (f is not None and g == f and (c <= q or f in known))
                if f is None or text:
                    plus = text
                elif f in known:
                    plus = g in known
                else:
                    plus = g in known or c <= q
                if side and not text and f is not None:
                    plus = plus and square(k, side, shift) == square(m, side, shift)
                planes[0, clip, q, c], planes[1, clip, q, c] = base, plus
    return planes


@pytest.mark.parametrize(
    ("frames", "known"),
    [((0, 1, 2), ()), ((0, 1, 2, 3), (0, 3)), ((0, 3, 1, 2), (0, 3)), ((0, 2, 4, 1, 3), (0, 2, 4))],
)
@pytest.mark.parametrize(("side", "shift"), [(None, 0), (1, 0), (2, 0), (2, 1)])
def test_masks_are_those_of_loops(frames, known, side, shift):
    layout = Layout.of(VISIBLE, frames, LENGTH, known)
    base, plus = slow_masks(frames, known, side, shift)
    squares = None if side is None else Squares(2, side, shift)
    assert torch.equal(base_mask(layout, layout)[:, 0], base)
    assert torch.equal(plus_mask(layout, layout, squares)[:, 0], plus)
    assert base.any(dim=-1).all()  # no query is left with nothing to see
    assert plus.any(dim=-1).all()


def test_squares_are_shifted_without_wrapping():
    places = torch.arange(17)  # the start token, and 4 x 4 tokens
    numbers = Squares(4, 2, 1).of(places)[1:].view(4, 4)
    assert [[int((numbers == numbers[r, c]).sum()) for c in (0, 1, 3)] for r in (0, 1, 3)] == [
        [1, 2, 1],
        [2, 4, 2],
        [1, 2, 1],
    ]
    assert Squares(4, 2, 1).of(places)[0] == numbers[0, 0]
    assert len(Squares(4, 2).of(places).unique()) == 4


def test_rotary_positions():
    layout = Layout.of(VISIBLE, (0, 3, 1), LENGTH)
    assert layout.base_positions.tolist() == [0, 1, 2, 3, *[4, 5, 6, 7, 8] * 3]
    assert layout.plus_positions.tolist() == [*range(4), *range(4, 9), *range(19, 24), *range(9, 14)]


def test_a_window_of_a_whole_frame_is_none(base):
    clips = tiny_text(), tiny_tokens(frames=3)
    channel = opened(base.new_channel(IN_ORDER))
    expected = base(*clips, channel, rows())
    channel.config = IN_ORDER.model_copy(update={"attention_window": 3})
    assert_close(base(*clips, channel, rows()), expected)
    channel.config = IN_ORDER.model_copy(update={"attention_window": 1})
    small = base(*clips, channel, rows())
    assert (small - expected).abs().max() > 1e-3
    channel.config = IN_ORDER.model_copy(update={"attention_window": 2})  # shifted by 1 in odd layers
    assert (base(*clips, channel, rows()) - small).abs().max() > 1e-3


# ---- the image transformer stays ---------------------------------------------------------------------


def test_without_a_second_channel_it_is_the_stock_transformer(base, tmp_path):
    base.glm.save_pretrained(tmp_path)
    stock = Glm4ForCausalLM.from_pretrained(tmp_path).eval()
    text, tokens = tiny_text(), tiny_tokens(frames=1)
    visible = base.visible(text)
    layout = Layout.of(visible, (0,), base.length)
    inputs = torch.cat(
        [
            base.embed_prefix(text),
            base.embed_frames(base.with_start(tokens), layout.take(slice(base.prefix, None))),
        ],
        dim=1,
    )
    logits = stock(inputs_embeds=inputs, attention_mask=base_mask(layout, layout), use_cache=False).logits
    assert_close(base(text, tokens)[:, 0], logits[:, base.prefix : -1, :CODES])


def test_one_frame_is_the_image_models_at_start_whatever_the_gate(base):
    text, tokens = tiny_text(), tiny_tokens(frames=1)
    expected, channel = base(text, tokens), base.new_channel(IN_ORDER)
    assert_close(base(text, tokens, channel, rows()), expected)
    for layer in channel.layers:
        layer.gate.data.normal_(std=3.0)
    assert_close(base(text, tokens, channel, rows(row=1)), expected)


def test_with_an_open_gate_each_frame_is_the_image_models(base):
    text, tokens = tiny_text(), tiny_tokens(frames=3)
    channel = base.new_channel(IN_ORDER)
    mixed = base(text, tokens, channel, rows())
    for layer in channel.layers:
        layer.gate.data.fill_(40.0)
    alone = torch.cat([base(text, tokens[:, frame : frame + 1]) for frame in range(3)], dim=1)
    assert_close(base(text, tokens, channel, rows()), alone)
    assert (mixed - alone).abs().max() > 1e-3


def test_base_frame_by_frame_is_base_on_whole_sequences(base):
    for config in (IN_ORDER, BETWEEN):
        channel = opened(base.new_channel(config))
        text, tokens = tiny_text(), tiny_tokens(frames=config.num_frames)
        layout = Layout.of(base.visible(text), range(config.num_frames), base.length, config.known)
        inputs = torch.cat(
            [
                base.embed_prefix(text, channel, rows()),
                base.embed_frames(base.with_start(tokens), layout.take(slice(base.prefix, None)), channel),
            ],
            dim=1,
        )
        whole = base.hidden(inputs, layout, key=layout, channel=channel)
        assert_close(base.hidden(inputs, layout, channel=channel), whole)


def test_plain_attention_in_bfloat16_is_the_fused_one():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 7, 8)
    mask = torch.zeros(2, 1, 7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), float("-inf"))
    fused = attend(query, key, value, mask)
    with torch.autocast("cpu", torch.bfloat16):
        plain = attend(query, key, value, mask.bfloat16())
    assert plain.dtype == torch.bfloat16
    assert_close(plain.float(), fused, atol=0.03, rtol=0.03)


def test_training_of_clips_changes_no_image(base):
    text, tokens, clips = tiny_text(), tiny_tokens(frames=1), tiny_tokens(frames=3)
    images = base(text, tokens)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    base.requires_grad_(False)
    channel = base.new_channel(IN_ORDER)
    optimizer = torch.optim.AdamW(channel.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        token_loss(base(text, clips, channel, rows(row=1)), clips).backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in base.parameters())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert torch.equal(base(text, tokens), images)


def test_gradient_reaches_all_of_the_second_channel(base):
    base.requires_grad_(False)
    for config in (IN_ORDER, BETWEEN):
        channel, tokens = base.new_channel(config), tiny_tokens(frames=config.num_frames)
        assert not channel.frames.weight.any()
        assert torch.equal(channel.rates.weight, base.stills_rate.expand_as(channel.rates.weight))
        token_loss(base(tiny_text(), tokens, channel, rows()), tokens).backward()
        for name, parameter in channel.named_parameters():
            assert parameter.grad.abs().max() > 0, name


# ---- who depends on whom -----------------------------------------------------------------------------


def test_later_tokens_change_nothing_before_them(base):
    text, tokens = tiny_text(), tiny_tokens(frames=3)
    channel = opened(base.new_channel(IN_ORDER))
    before, later = base(text, tokens, channel, rows()), tokens.clone()
    later[:, 1, 2] = (later[:, 1, 2] + 1) % CODES
    after = base(text, later, channel, rows())
    assert torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1, :3], before[:, 1, :3])  # up to the logits of that token
    assert (after[:, 1, 3:] != before[:, 1, 3:]).any()
    assert (after[:, 2] != before[:, 2]).any()


def test_known_frames_see_each_other_and_no_unknown_one(base):
    text, tokens = tiny_text(), tiny_tokens(frames=4)
    channel = opened(base.new_channel(BETWEEN))
    before, changed = base(text, tokens, channel, rows()), tokens.clone()
    changed[:, 1] = (changed[:, 1] + 1) % CODES
    after = base(text, changed, channel, rows())
    assert torch.equal(after[:, [0, 3]], before[:, [0, 3]])
    assert (after[:, 2] != before[:, 2]).any()
    changed = tokens.clone()
    changed[:, 3, -1] = (changed[:, 3, -1] + 1) % CODES
    after = base(text, changed, channel, rows())
    for frame in range(4):
        assert (after[:, frame, 0] != before[:, frame, 0]).any()  # the first one's, too


def test_padding_is_not_read(base):
    text, tokens = tiny_text(3), tiny_tokens(3, frames=3)
    channel = opened(base.new_channel(IN_ORDER))
    before = base(text, tokens, channel, rows(3))
    text.content[~text.visible] = 7.0
    assert torch.equal(base(text, tokens, channel, rows(3)), before)
    text.content[text.visible] += 0.1
    assert (base(text, tokens, channel, rows(3)) != before).any()


def test_another_frame_rate_gives_other_logits(base):
    text, tokens = tiny_text(), tiny_tokens(frames=3)
    channel = opened(base.new_channel(IN_ORDER))
    slow, fast = (base(text, tokens, channel, rows(row=row)) for row in (0, 1))
    assert (slow - fast).abs().max() > 1e-3
    assert (IN_ORDER.rate_index(2.001), IN_ORDER.rate_index(4.0)) == (0, 1)
    with pytest.raises(ValueError, match="fps 3: this model has learned 2, 4"):
        IN_ORDER.rate_index(3.0)


def test_text_as_pieces_of_the_vocabulary():
    base = tiny_transformer(text="tokens")
    pieces = torch.randint(8, (2, 5))
    text = type(tiny_text())(pieces, tiny_text().visible)
    before = base(text, tiny_tokens(frames=1))
    assert before.shape[-1] == CODES  # pieces of text cannot be drawn
    text.content[:, -1] = (pieces[:, -1] + 1) % 8
    assert (base(text, tiny_tokens(frames=1)) != before).any()


# ---- settings and sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known": (0, 2)}, r"known \[0, 2\]: expected evenly spaced frames from 0 to the last of 4"),
        ({"known": (0, 1, 2, 3)}, "with others between"),
        ({"known": (0,)}, "expected evenly spaced"),
        ({"known": (3, 0)}, "expected evenly spaced"),
        ({"known": (0, 3), "first_frame": False}, "a window of known frames begins with one"),
    ],
)
def test_windows_that_cannot_be_filled(changes, message):
    with pytest.raises(ValueError, match=message):
        ChannelConfig(num_frames=4, frame_rates=(1.0,), **changes)


def counted(config, codes, grid, text_size, frames, rates):
    with torch.device("meta"):
        base = ImageTransformer.new(config, codes, grid, text_size)
        channel = base.new_channel(ChannelConfig(num_frames=frames, frame_rates=rates))
    return [sum(tensor.numel() for tensor in part.parameters()) for part in (base, channel)]


def test_parameters_of_the_small_model():
    base, plus = counted(TransformerConfig(), 1024, (8, 8), 128, 6, (8 / 3,))
    print(f"base {base:,}, plus {plus:,}")
    assert base == pytest.approx(5.60e6, rel=0.01)
    assert plus == pytest.approx(1.77e6, rel=0.01)


def test_parameters_of_the_published_size():
    config = TransformerConfig(
        hidden_size=3072, num_hidden_layers=48, num_attention_heads=48, intermediate_size=8192,
        text="tokens", text_length=64,
    )  # fmt: skip
    words, codes = 150_010, 20_000
    base, plus = counted(config, codes, (20, 20), words - codes - 1, 5, (1.0, 2.0, 4.0, 8.0))
    print(f"base {base:,}, plus {plus:,}")
    assert base == pytest.approx(5.90e9, rel=0.005)
    assert plus == pytest.approx(1.81e9, rel=0.005)
    assert base + plus == pytest.approx(7.71e9, rel=0.005)
    assert base + 2 * plus == pytest.approx(9.54e9, rel=0.005)
