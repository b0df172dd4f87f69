"""The files of a folder and of the folders below, in one order for all that read folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class FileList(NamedTuple):
    """The files of a folder and of those in it, sorted; and what was left out."""

    files: list[Path]
    unreadable: dict[Path, str]  # files and folders, and why
    repeated: list[Path]  # links to folders that are listed already


def list_files(folder: Path) -> FileList:
    """List all files below a folder but those with a name, or in a folder of a name, that begins with a dot.

    Links to folders are followed; each folder is listed once, by its own name where it lies below.
    """
    found = FileList([], {}, [])
    seen: set[tuple[int, int]] = set()
    roots = [str(folder)]

    def leave_out(error: OSError) -> None:
        found.unreadable[Path(error.filename)] = f"cannot be read: {error.strerror}"

    for root in roots:  # grows by links to folders
        for parent, folders, names in os.walk(root, onerror=leave_out):
            stat = os.stat(parent)
            if (stat.st_dev, stat.st_ino) in seen:
                found.repeated.append(Path(parent))
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
            paths = [os.path.join(parent, name) for name in folders]
            roots += [path for path in paths if os.path.islink(path)]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                try:
                    if path.is_file():
                        found.files.append(path)
                    else:
                        dangles = path.is_symlink() and not path.exists()
                        found.unreadable[path] = "is a link to nothing" if dangles else "is no file"
                except OSError as error:
                    leave_out(error)
    found.files.sort()
    return found


def suffixes_of(files: Iterable[Path]) -> str:
    """The suffixes of files for a message, at most 8 of them; of a file without one its name."""
    return ", ".join(list(dict.fromkeys(file.suffix.lower() or file.name for file in files))[:8])
