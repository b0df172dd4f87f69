"""Clips on disk: written whole or not at all, named by job and claim, found again by name only.

A clip is `<id>.<fence>.mp4` (.png for one frame), so that two claims of a job never write the same file.
What is derived from it (a gif, a thumbnail) is `<id>.<fence>.<what>`, made when first requested. Previews
of running jobs lie in a folder of their own and may vanish at any time.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from latent_shift.io import atomic_file
from latent_shift.media import write_clip
from latent_shift.server.faults import fault
from latent_shift.server.jobs import ID, Job, MadeFile

if TYPE_CHECKING:
    from latent_shift.generation import GeneratedClip

_WATCHED = 5.0  # seconds that a preview counts as watched after its last look
_ORPHAN = 600.0  # seconds; a file of no job is younger only while it is being written
# Names of this server's files, whole and partial; any other file in its folders is somebody's own.
_OWN = re.compile(rf"(\.\d+-\d+-)?{ID}\.[0-9a-z.]+|\.[0-9a-f]{{32}}\.tmp")


class _Lock:
    """A lock that is forgotten when nobody holds it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class ClipFiles:
    """Files of the jobs in a server's folder."""

    def __init__(self, data: Path) -> None:
        self.clips, self._previews = data / "clips", data / "previews"
        self.clips.mkdir(parents=True, exist_ok=True)
        self._previews.mkdir(parents=True, exist_ok=True)
        self._being_made: WeakValueDictionary[str, _Lock] = WeakValueDictionary()  # by a derived file's name

    def path(self, name: str) -> Path:
        """Path of a file that a row names."""
        return self.clips / name

    def write(self, clips: Iterable[tuple[Job, GeneratedClip, dict[str, Any]]]) -> list[MadeFile]:
        """Write clips with their settings; their files, when all are durable. Leaves none where one fails."""
        made: list[MadeFile] = []
        try:
            for job, clip, settings in clips:
                path = self.clips / f"{job.id}.{job.fence}{'.png' if len(clip.clip) == 1 else '.mp4'}"
                write_clip(path, clip.clip, clip.request.fps, settings, overwrite=True)
                made.append(MadeFile(job, path.name, path.stat().st_size, clip.seconds))
                fault("written")
            for one in made:  # the disk takes several together sooner than one after the other
                _sync(self.clips / one.name)
            _sync(self.clips)
        except BaseException:
            for one in made:
                self.path(one.name).unlink(missing_ok=True)
            raise
        return made

    def derived(self, job: Job, what: str, make: Callable[[Path, Path], None]) -> Path:
        """The file made of a job's clip, as "thumbnail.webp": made by make(clip, target) if it is not there.

        what: end of its name. job: a completed one. Raises FileNotFoundError where the clip has gone.
        """
        clip = self.clips / str(job.file)
        target = self._derived_path(job, what)
        if target.is_file():
            return target
        being_made = self._being_made.setdefault(target.name, _Lock())
        with being_made.lock:  # others wait for the same file
            if not target.is_file():
                if not clip.is_file():
                    raise FileNotFoundError(str(clip))
                partial = target.with_name(f".{os.getpid()}-{time.monotonic_ns()}-{target.name}")
                try:
                    make(clip, partial)
                    os.replace(partial, target)
                finally:
                    partial.unlink(missing_ok=True)
        return target

    def has_derived(self, job: Job, what: str) -> bool:
        """Whether a file made of a job's clip is there. job, what: as of `derived`."""
        return self._derived_path(job, what).is_file()

    def _derived_path(self, job: Job, what: str) -> Path:
        return (self.clips / str(job.file)).with_suffix(f".{what}")

    def sizes(self) -> dict[str, int]:
        """Bytes of all files of a job, what is derived from its clip included, by its id."""
        found: dict[str, int] = {}
        with os.scandir(self.clips) as entries:
            for entry in entries:
                id = entry.name.partition(".")[0]
                with suppress(FileNotFoundError):
                    found[id] = found.get(id, 0) + entry.stat().st_size
        return found

    def remove(self, id: str) -> None:
        """Remove all files of a job."""
        for path in self.clips.glob(f"{id}.*"):
            path.unlink(missing_ok=True)
        for path in self._previews.glob(f"{id}.*"):
            path.unlink(missing_ok=True)

    def sweep(self, known: Collection[str], age: float = _ORPHAN) -> None:
        """Remove the server's files of no job that are older than `age` seconds; others' files stay.

        known: names of the clips of all jobs.
        """
        claims = {Path(name).stem for name in known}  # <id>.<fence>
        oldest = time.time() - age
        paths = (path for folder in (self.clips, self._previews) for path in folder.iterdir())
        for path in [path for path in paths if _OWN.fullmatch(path.name)]:
            claim = ".".join(path.name.split(".")[:2])
            try:
                if claim not in claims and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue

    def free_bytes(self) -> int:
        """Free space of the disk."""
        return shutil.disk_usage(self.clips).free

    def watch(self, id: str) -> None:
        """Note that somebody looks at the previews of a job."""
        (self._previews / f"{id}.watched").touch()

    def is_watched(self, id: str) -> bool:
        """Whether somebody has looked at the previews of a job lately."""
        try:
            return (self._previews / f"{id}.watched").stat().st_mtime > time.time() - _WATCHED
        except FileNotFoundError:
            return False

    def write_preview(self, id: str, content: bytes) -> None:
        """Replace the preview of a job, a WebP image."""
        with atomic_file(self._previews / f"{id}.webp") as partial:
            partial.write_bytes(content)

    def read_preview(self, id: str) -> bytes | None:
        """The newest preview of a job; None where there is none."""
        try:
            return (self._previews / f"{id}.webp").read_bytes()
        except FileNotFoundError:
            return None


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
