"""Pictures of clips under way."""

import numpy as np
import pytest

from latent_shift.systems.base import GenerationRequest
from latent_shift.systems.latent_shift import LatentShift
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return LatentShift.load(tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


def test_a_preview_is_the_middle_frame_of_each_clip_and_sharpens_to_it(system):
    requests = [GenerationRequest(prompt="a circle", seed=seed, frames=5, steps=4) for seed in (1, 2)]
    previews = []
    clips = system.generate(requests, lambda done, total: previews.append(system.preview()))
    assert [preview.shape for preview in previews] == [(2, 32, 32, 3)] * 4
    middle = clips[:, 2].astype(int)
    distances = [np.abs(preview.astype(int) - middle).mean() for preview in previews]
    assert distances[-1] < 0.5 < distances[0]


def test_there_is_none_where_nothing_is_under_way(system):
    def stop(done, total):
        raise KeyboardInterrupt

    assert system.preview() is None
    with pytest.raises(KeyboardInterrupt):
        system.generate([GenerationRequest(prompt="a circle", frames=2, steps=2)], stop)
    assert system.preview() is None


def test_looking_changes_no_clip(system):
    request = GenerationRequest(prompt="a circle", seed=3, frames=4, steps=3)
    seen = system.generate([request], lambda done, total: system.preview())
    assert (seen == system.generate([request])).all()
