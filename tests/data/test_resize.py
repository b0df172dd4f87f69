"""Sizes: the middle is kept, fine stripes do not alias, buckets have about the same number of pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from latent_shift.data.resize import AREA_TOLERANCE, Buckets, center_crop_resize, crop_box


def test_the_middle_is_kept():
    assert crop_box(100, 200, (64, 64)) == (0, 50, 100, 100)
    assert crop_box(200, 100, (64, 64)) == (50, 0, 100, 100)
    assert crop_box(90, 160, (256, 256)) == (0, 35, 90, 90)
    assert crop_box(31, 17, (31, 17)) == (0, 0, 31, 17)
    frames = torch.zeros(2, 10, 30, 3, dtype=torch.uint8)
    frames[:, :, 10:20] = 200
    assert center_crop_resize(frames, (5, 5)).unique().tolist() == [200]


def test_resizing_is_antialiased_as_pillow_does_it():
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    ours = center_crop_resize(torch.from_numpy(image[None]), (48, 64))[0].numpy()
    pillows = np.asarray(Image.fromarray(image).resize((64, 48), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - pillows).max() <= 1
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None, None], (64, 128, 3))[None]
    gray = center_crop_resize(torch.from_numpy(stripes), (24, 24))[0, 4:-4]
    assert (gray.float() - 127.5).abs().max() < 10


def test_frames_of_the_right_size_stay_unchanged():
    frames = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    assert torch.equal(center_crop_resize(frames, (16, 24)), frames)


def test_buckets_have_about_the_same_number_of_pixels():
    buckets = Buckets(pixels=256 * 256, multiple=32, max_aspect=2)
    assert (256, 256) in buckets.sizes
    assert len(buckets.sizes) >= 5
    for height, width in buckets.sizes:
        assert height % 32 == width % 32 == 0
        assert abs(height * width / 256**2 - 1) <= AREA_TOLERANCE
        assert max(height / width, width / height) <= 2
    assert {(width, height) for height, width in buckets.sizes} == set(buckets.sizes)
    assert buckets.sizes[buckets.nearest(720, 720)] == (256, 256)
    wide, tall = (buckets.sizes[buckets.nearest(*size)] for size in ((1080, 1920), (1920, 1080)))
    assert wide == tall[::-1]
    assert 1.6 < wide[1] / wide[0] < 2


def test_buckets_without_a_size_are_an_error():
    with pytest.raises(ValueError, match="no size of about 1000 pixels has sides that are multiples of 64"):
        _ = Buckets(pixels=1000, multiple=64).sizes
