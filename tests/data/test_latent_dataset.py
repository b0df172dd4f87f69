"""Encoded clips on disk: written shard by shard, resumed, and never of mixed settings."""

from functools import partial

import numpy as np
import pytest
import torch

from latent_shift.autoencoder import encode_frames, encoder_hash, to_model_range
from latent_shift.data import latent_dataset
from latent_shift.data.latent_dataset import encode_clips, read_latents
from tiny import tiny_autoencoder

SETTINGS = {"world": 1}


class Clips:
    """Clips of two noisy frames by index; counts how many were requested."""

    def __init__(self, length):
        self.length, self.requested = length, 0

    def __len__(self):
        return self.length

    def frames(self, indices):
        indices = list(indices)
        self.requested += len(indices)
        return np.stack(
            [np.random.default_rng(i).integers(0, 256, (2, 32, 32, 3), np.uint8) for i in indices]
        )


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(latent_dataset, "SHARD_CLIPS", 4)


@pytest.fixture(scope="module")
def vae():
    return tiny_autoencoder()


@pytest.fixture(scope="module")
def encode(vae):
    return partial(encode_frames, vae, chunk=256)


def test_a_store_holds_the_scaled_means_of_every_frame(vae, tmp_path):
    clips = Clips(6)
    encode = partial(encode_frames, vae, chunk=3)
    assert list(encode_clips(clips, encode, tmp_path, SETTINGS)) == [4, 6]
    stored = read_latents(tmp_path, 6)
    assert (stored.shape, stored.dtype) == ((6, 2, 4, 8, 8), torch.float16)
    pixels = to_model_range(torch.from_numpy(clips.frames([5])).flatten(0, 1))
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mode() * 0.5
    assert torch.allclose(stored[5].float(), expected, atol=0.02)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_encoding_goes_on_where_it_was_stopped(encode, tmp_path):
    whole, stopped = Clips(10), Clips(10)
    list(encode_clips(whole, encode, tmp_path / "whole", SETTINGS))
    assert next(encode_clips(stopped, encode, tmp_path / "stopped", SETTINGS)) == 4
    (tmp_path / "stopped" / "latents-00000004.unfinished").write_bytes(b"half")
    assert list(encode_clips(stopped, encode, tmp_path / "stopped", SETTINGS)) == [8, 10]
    assert stopped.requested == 10
    assert torch.equal(*(read_latents(tmp_path / name, 10) for name in ("whole", "stopped")))
    assert list(encode_clips(stopped, encode, tmp_path / "stopped", SETTINGS)) == []


def test_clips_drawn_by_other_processes_lie_in_the_same_order(encode, tmp_path):
    list(encode_clips(Clips(10), encode, tmp_path / "one", SETTINGS))
    assert list(encode_clips(Clips(10), encode, tmp_path / "several", SETTINGS, workers=2)) == [4, 8, 10]
    assert torch.equal(*(read_latents(tmp_path / name, 10) for name in ("one", "several")))


def test_a_store_can_grow_and_be_read_in_part(encode, tmp_path):
    list(encode_clips(Clips(6), encode, tmp_path, SETTINGS))
    six = read_latents(tmp_path, 6)
    assert list(encode_clips(Clips(9), encode, tmp_path, SETTINGS)) == [
        8,
        9,
    ]  # the shard of 2 is made again
    assert torch.equal(read_latents(tmp_path, 9)[:6], six)
    assert torch.equal(read_latents(tmp_path, 3), six[:3])


def test_missing_clips_are_an_error(encode, tmp_path):
    list(encode_clips(Clips(5), encode, tmp_path, SETTINGS))
    with pytest.raises(ValueError, match="holds 5 clips, not 20: encode it again"):
        read_latents(tmp_path, 20)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-9], lambda data: data[:2000] + bytes(len(data) - 2000)]
)
def test_a_damaged_shard_is_encoded_anew(encode, tmp_path, change):
    assert list(encode_clips(Clips(6), encode, tmp_path, SETTINGS)) == [4, 6]
    before, shard = read_latents(tmp_path, 6), tmp_path / "latents-00000000.safetensors"
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.warns(
        UserWarning, match="latents-00000000.safetensors: is damaged or cut off; its clips are"
    ):
        assert list(encode_clips(Clips(6), encode, tmp_path, SETTINGS)) == [4]
    assert torch.equal(read_latents(tmp_path, 6), before)


def test_latents_whose_settings_are_lost_are_not_taken_for_any(encode, tmp_path):
    list(encode_clips(Clips(6), encode, tmp_path, SETTINGS))
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="holds latents without their settings.json"):
        list(encode_clips(Clips(6), encode, tmp_path, SETTINGS))


def test_latents_of_other_settings_are_not_mixed_in(encode, tmp_path):
    next(encode_clips(Clips(9), encode, tmp_path, SETTINGS))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match="holds latents of other settings: name another folder, or remove it"
    ):
        next(encode_clips(Clips(9), encode, tmp_path, {"world": 2}))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_fingerprint_tells_autoencoders_apart(vae):
    assert encoder_hash(vae) == encoder_hash(tiny_autoencoder())
    assert encoder_hash(vae) != encoder_hash(tiny_autoencoder(seed=9))
