"""Streaming statistics against one pass of numpy, and as files that refuse what they should."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from latent_shift.evaluation.features import (
    BLOCK,
    Features,
    FeatureSettings,
    Moments,
    Provenance,
    check_same,
    merge_features,
    read_features,
    write_features,
)

SETTINGS = FeatureSettings(
    extractor="tests", layer="all", weights="0" * 12, per="clip", side=8, resize="bilinear", antialias=True,
    fit="exact", frames=4, fps="own",
)  # fmt: skip


def rows_of(count, width=5, offset=1e6, seed=0):
    return (np.random.default_rng(seed).normal(size=(count, width)) * 2 + offset).astype(np.float32)


def features_of(rows, names=None, **changes):
    names = names or [f"{number}.mp4" for number in range(len(rows))]
    settings = SETTINGS.model_copy(update=changes)
    provenance = Provenance(source="made", clips=len(names), seed=3)
    return Features(settings, provenance, tuple(names), Moments.of(rows), rows)


def test_moments_are_numpys_also_far_from_zero():
    rows = rows_of(3 * BLOCK + 17)
    moments = Moments.of(rows)
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.astype(float).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance(), np.cov(rows.astype(float).T), atol=1e-10)


@pytest.mark.parametrize("batch", [1, 7, BLOCK, 1000])
def test_batches_do_not_change_a_digit(batch):
    rows = rows_of(2 * BLOCK + 50)
    streamed = Moments(5)
    for start in range(0, len(rows), batch):
        streamed.add(rows[start : start + batch])
    whole = Moments.of(rows)
    assert np.array_equal(streamed.mean, whole.mean)
    assert np.array_equal(streamed.scatter, whole.scatter)


def test_merged_shards_equal_one_pass():
    rows = rows_of(900)
    merged = Moments(5)
    for part in np.array_split(rows, [100, 130, 600]):
        merged.merge(Moments.of(part))
    whole = Moments.of(rows)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-7)


def test_wrong_rows_are_refused():
    moments = Moments(5)
    with pytest.raises(ValueError, match=r"expected \(N, 5\)"):
        moments.add(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not finite"):
        moments.add(np.full((2, 5), np.nan))
    with pytest.raises(ValueError, match="give at least 2"):
        moments.covariance()
    with pytest.raises(ValueError, match="width 4"):
        moments.merge(Moments(4))
    with pytest.raises(ValueError, match="do not|expected"):
        Moments.from_parts(3, np.zeros(4), np.zeros((3, 3)))


def test_a_file_gives_back_what_was_written(tmp_path):
    features = features_of(rows_of(40))
    write_features(tmp_path / "a" / "real.safetensors", features)
    again = read_features(tmp_path / "a" / "real.safetensors")
    assert (again.settings, again.provenance, again.clips) == (
        features.settings, features.provenance, features.clips,
    )  # fmt: skip
    assert np.array_equal(again.rows, features.rows)
    assert np.array_equal(again.moments.scatter, features.moments.scatter)
    assert again.logits is None
    assert again.rows_per_clip == 1
    assert not list((tmp_path / "a").glob(".*"))


def test_two_writings_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_features(tmp_path / name, features_of(rows_of(40)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_parts_of_several_processes_join(tmp_path):
    rows = rows_of(60)
    parts = [features_of(part, [f"{number}-{i}" for i in range(20)]) for number, part in enumerate(
        np.array_split(rows, 3))]  # fmt: skip
    merged = merge_features(parts)
    assert merged.provenance.clips == 60
    assert np.array_equal(merged.rows, rows)
    np.testing.assert_allclose(merged.moments.covariance(), np.cov(rows.astype(float).T), atol=1e-10)
    with pytest.raises(ValueError, match="0-0: is in more than one"):
        merge_features([parts[0], parts[0]])
    with pytest.raises(ValueError, match=r"antialias \(True and False\)"):
        merge_features([parts[0], features_of(rows[:2], antialias=False)])
    with pytest.raises(ValueError, match="no parts"):
        merge_features([])


def test_other_settings_are_named():
    check_same(SETTINGS, SETTINGS, "a and a")
    other = SETTINGS.model_copy(update={"extractor": "i3d", "fps": "8"})
    with pytest.raises(ValueError, match=r"a and b.*extractor \(tests and i3d\); fps \(own and 8\)"):
        check_same(SETTINGS, other, "a and b")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_features(tmp_path / "none")
    (tmp_path / "text").write_text("x" * 100)
    with pytest.raises(ValueError, match="is no file of features"):
        read_features(tmp_path / "text")
    save_file({"mean": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="is no file of features"):
        read_features(tmp_path / "other")


def test_statistics_alone_say_what_they_lack():
    features = features_of(rows_of(5))
    bare = Features(features.settings, features.provenance, features.clips, features.moments, None)
    with pytest.raises(ValueError, match="kernel distance needs the features"):
        bare.need_rows("the kernel distance")
