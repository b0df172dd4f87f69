"""Hashes of large files are kept between programs; those of changed files are not believed."""

import hashlib
import os

import pytest

from latent_shift import hashes


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latent-shift" / "sha256"


def anew(path):
    """The hash as another program gets it."""
    hashes._remembered_sha256.cache_clear()
    return hashes.remembered_sha256(path)


def test_a_large_file_is_read_once_while_it_stays_the_same(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(hashes, "_LARGE", 1000)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"a" * 2000)
    first = anew(file)
    assert first == hashlib.sha256(b"a" * 2000).hexdigest()
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text().replace(first, "0" * 64))
    assert anew(file) == "0" * 64
    file.write_bytes(b"b" * 2001)
    assert anew(file) == hashlib.sha256(b"b" * 2001).hexdigest()
    assert len(list(cache.iterdir())) == 1
    kept.write_text("damaged")
    assert anew(file) == hashlib.sha256(b"b" * 2001).hexdigest()


def test_small_files_and_a_cache_that_cannot_be_written(tmp_path, cache, monkeypatch):
    (tmp_path / "cache").write_text("a file in the way")
    file = tmp_path / "small"
    file.write_bytes(b"a")
    monkeypatch.setattr(hashes, "_LARGE", 1)
    assert anew(file) == hashlib.sha256(b"a").hexdigest()
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(hashes, "_LARGE", 2)
    anew(file)
    assert not (tmp_path / "cache").exists()


def clips(folder):
    return {path.name: path for path in sorted(folder.iterdir())}


def test_a_set_of_files_is_read_once_while_all_stay_the_same(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(hashes, "_GRAIN", 0)
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(b"a" * 300_000)
    first = hashes.files_hash(clips(folder))
    assert hashes.files_hash({"c.mp4": folder / "a.mp4", "b.mp4": folder / "b.mp4"}) != first
    kept = next(path for path in cache.iterdir() if first in path.read_text())
    kept.write_text(kept.read_text().replace(first, "0" * 64))
    assert hashes.files_hash(clips(folder)) == "0" * 64
    file = folder / "b.mp4"
    before = file.stat()
    with file.open("r+b") as opened:  # in its middle, and its time set back
        opened.seek(150_000)
        opened.write(b"b")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hashes.files_hash(clips(folder)) not in (first, "0" * 64)
    with file.open("r+b") as opened:
        opened.seek(150_000)
        opened.write(b"a")
    assert hashes.files_hash(clips(folder)) == first


def test_a_set_that_was_changed_just_now_is_read_each_time(tmp_path, cache):
    """Two changes within the grain of a file system's clock have one time."""
    folder = tmp_path / "clips"
    folder.mkdir()
    file = folder / "a.mp4"
    file.write_bytes(b"a")
    hashes.files_hash(clips(folder))
    assert not cache.exists()
