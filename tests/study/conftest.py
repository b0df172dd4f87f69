"""A small study: eight prompts, two sources of quarter-second clips, three raters a pair."""

import shutil
import tempfile
from pathlib import Path

import pytest

from latent_shift.study.create import create_study
from latent_shift.study.design import DesignOptions
from latent_shift.study.sources import ReadOptions, open_sources
from latent_shift.study.store import StudyStore
from memory_disk import MEMORY_DISK
from studies import PROMPTS, make_folder


@pytest.fixture
def tmp_path():
    """A folder in memory, where there is such a disk: every answer waits for the disk, hundreds a test."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Folders of clips by name; they are read only."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: make_folder(folder / name, shade) for name, shade in (("aardvark", 60), ("zebra", 180))}


@pytest.fixture(scope="session")
def made_study(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "study"
    opened = open_sources([str(path) for path in sources.values()], PROMPTS, ReadOptions())
    create_study(opened, PROMPTS, folder, DesignOptions(raters_per_pair=3, pairs_per_rater=6))
    return folder


@pytest.fixture
def study(made_study, tmp_path):
    """A study's folder of the test's own."""
    return shutil.copytree(made_study, tmp_path / "study")


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(study, clock):
    store = StudyStore.open(study, clock)
    yield store
    store.close()
