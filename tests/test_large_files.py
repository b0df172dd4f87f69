"""Hashes of large files are kept between programs; those of changed files are not believed."""

import hashlib
import json

from latent_shift import io


def test_a_large_file_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(io, "_LARGE", 1000)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"a" * 2000)
    first = io.file_sha256(file)
    assert first == hashlib.sha256(b"a" * 2000).hexdigest()
    cache = tmp_path / "cache" / "latent-shift" / "sha256.json"
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: "kept"}))
    assert io.file_sha256(file) == "kept"
    file.write_bytes(b"b" * 2001)
    assert io.file_sha256(file) == hashlib.sha256(b"b" * 2001).hexdigest()
    assert len(json.loads(cache.read_text())) == 1
    cache.write_text("damaged")
    assert io.file_sha256(file) == hashlib.sha256(b"b" * 2001).hexdigest()


def test_small_files_and_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("a file in the way")
    file = tmp_path / "small"
    file.write_bytes(b"a")
    monkeypatch.setattr(io, "_LARGE", 1)
    assert io.file_sha256(file) == hashlib.sha256(b"a").hexdigest()
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(io, "_LARGE", 2)
    io.file_sha256(file)
    assert not (tmp_path / "cache").exists()
