"""A U-Net's pass over clips in blocks of frames against its pass over all frames, layouts and options."""

import threading

import pytest
import torch

from latent_shift import frame_blocks
from latent_shift.frame_blocks import block_size, predict_in_blocks
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift
from test_unet import SIMPLE_CROSS_ATTENTION, VARIANTS, inputs
from tiny import tiny_unet

CASES = [  # frames, block, options
    (23, 4, {}),
    (30, 7, {"padding": "replicate", "strides": (3, 1)}),
    (19, 5, {"padding": "circular"}),
    (13, 3, {"padding": "circular", "strides": (2, 1), "place": "input"}),
    (11, 3, {"direction": "causal", "place": "input"}),
    (13, 3, {"direction": "causal", "padding": "circular", "strides": (2, 1)}),
    (5, 16, {}),
    (6, 1, {"fold": 8, "strides": (9, 1)}),  # a stride longer than the clip
]


def whole_and_in_blocks(unet, frames, block, *, clips=2):
    """Both predictions for clips, each frame of which has its own latents and text."""
    call = inputs(unet, clips * frames)
    added = call.pop("added_cond_kwargs", None)
    if added is not None:
        added = {name: rows[::frames] for name, rows in added.items()}
        call["added_cond_kwargs"] = {
            name: rows.repeat_interleave(frames, dim=0) for name, rows in added.items()
        }
    with torch.no_grad():
        whole = unet(**call).sample
    sample, timestep, text = (call[name] for name in ("sample", "timestep", "encoder_hidden_states"))
    given = {"added_cond_kwargs": added} if added else None
    return whole, predict_in_blocks(
        unet, sample, timestep, text, num_frames=frames, block=block, by_clip=given
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_option_of_the_shift(case):
    frames, block, options = case
    unet = tiny_unet()
    enable_temporal_shift(unet, frames, **options)
    whole, blocks = whole_and_in_blocks(unet, frames, block)
    assert torch.allclose(whole, blocks, rtol=0, atol=3e-6)
    disable_temporal_shift(unet)
    assert not torch.allclose(whole, whole_and_in_blocks(unet, frames, block)[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "tiny"])
def test_every_layout(name):
    unet = tiny_unet(**VARIANTS[name])
    enable_temporal_shift(unet, 9, strides=(2, 1), padding="replicate")
    whole, blocks = whole_and_in_blocks(unet, 9, 4)
    assert torch.allclose(whole, blocks, rtol=0, atol=3e-6)


def test_without_the_shift_frames_pass_block_by_block():
    unet = tiny_unet()
    whole, blocks = whole_and_in_blocks(unet, 7, 3)
    assert torch.allclose(whole, blocks, rtol=0, atol=3e-6)


def test_one_batch_never_holds_more_than_a_block():
    unet, batches = tiny_unet(), []
    enable_temporal_shift(unet, 40)
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda module, given, out, name=name: batches.append((name, len(out)))
            )
    whole_and_in_blocks(unet, 40, 4, clips=1)
    batches = [(name, rows) for name, rows in batches if rows != 40]  # of the pass in blocks
    assert max(rows for _, rows in batches) == 4
    passed = sum(rows for name, rows in batches if name == "conv_out")
    assert 40 <= passed <= 40 + 3  # each frame once, and fillers while the first frames are under way


def test_text_comes_for_the_frames_that_enter():
    unet, asked = tiny_unet(), []
    enable_temporal_shift(unet, 9)
    call = inputs(unet, 9)

    def text(frames):
        asked.append(list(frames))
        return call["encoder_hidden_states"][frames]

    blocks = predict_in_blocks(unet, call["sample"], call["timestep"], text, num_frames=9, block=4)
    with torch.no_grad():
        assert torch.allclose(blocks, unet(**call).sample, rtol=0, atol=3e-6)
    assert asked[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert all(len(frames) == 1 for frames in asked[2:])


def test_other_threads_and_later_calls_are_not_affected():
    unet = tiny_unet()
    enable_temporal_shift(unet, 6)
    call = inputs(unet, 6)
    with torch.no_grad():
        before = unet(**call).sample
    found = []

    def text(frames):  # within the pass in blocks
        def other():
            with torch.no_grad():
                found.append(unet(**call).sample)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return call["encoder_hidden_states"][frames]

    predict_in_blocks(unet, call["sample"], call["timestep"], text, num_frames=6, block=2)
    with torch.no_grad():
        found.append(unet(**call).sample)
    assert len(found) > 3
    assert all(torch.equal(one, before) for one in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, "block=0"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 4}, "6 is no whole number of clips of 4 frames"),
    ],
)
def test_mistakes_are_named(changes, message):
    unet = tiny_unet()
    call = inputs(unet, 6)
    options = {"num_frames": 6, "block": 2, **changes}
    with pytest.raises(ValueError, match=message):
        predict_in_blocks(unet, call["sample"], 5, call["encoder_hidden_states"], **options)


def test_layers_without_a_delay_line_are_refused():
    unet = tiny_unet(**SIMPLE_CROSS_ATTENTION)
    with pytest.raises(ValueError, match=r"attentions\.0.*Attention.*pass together"):
        predict_in_blocks(unet, torch.randn(4, 4, 8, 8), 5, torch.randn(4, 3, 16), num_frames=4, block=2)


def test_the_size_of_blocks_follows_the_clip_and_free_memory(monkeypatch):
    unet = tiny_unet()
    size = lambda frames: block_size(unet, (8, 8), frames, native=16, halves=2)  # noqa: E731
    assert [size(frames) for frames in (1, 16, 32, 33, 4096)] == [None, None, None, 16, 16]
    frame = 2 * 8 * 8 * 12 * 4 * frame_blocks._TENSORS_AT_PEAK
    monkeypatch.setattr(frame_blocks, "_free_memory", lambda device: 2 * 5 * frame)
    assert [size(frames) for frames in (5, 6, 4096)] == [None, 5, 5]
    monkeypatch.setattr(frame_blocks, "_free_memory", lambda device: 0)
    assert [size(frames) for frames in (1, 2)] == [None, 1]
    asked = []
    monkeypatch.setattr(frame_blocks, "_free_memory", lambda device: asked.append(device) or 0)
    block_size(unet, (8, 8), 4, 16, 2, torch.device("meta"))  # where an offloaded U-Net will run
    assert asked == [torch.device("meta")]


def test_a_disabled_shift_is_no_shift():
    unet = tiny_unet()
    enable_temporal_shift(unet, 6)
    disable_temporal_shift(unet)
    whole, blocks = whole_and_in_blocks(unet, 6, 4)
    assert torch.allclose(whole, blocks, rtol=0, atol=3e-6)
