"""The folder of a finished model, written whole or not at all, in the place of an earlier one.

While it is written it has a hidden name, and in the moment of the exchange the earlier one has another: so
neither is ever without a whole copy on the disk, also where the process is killed.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from latent_shift.io import warn
from latent_shift.training.model_card import keep_edited_card, write_model_card
from latent_shift.training.task import Task

MODEL, SET_ASIDE, _UNFINISHED = "model", ".model.before", ".model.unfinished"  # in the run's folder


def export_model(task: Task) -> Path:
    """Write a run's model, and return its folder. A link in its place is replaced, not followed.

    Files of others in an earlier model's folder, such as notes, are kept beside the new one. Raises
    ValueError where it cannot be written, as on a full disk; the earlier one is there then.
    """
    folder, partial = task.recipe.output / MODEL, task.recipe.output / _UNFINISHED
    shutil.rmtree(partial, ignore_errors=True)
    try:
        task.export(partial)
        write_model_card(partial, task)
        for file in partial.rglob("*.safetensors"):  # which its library lets the owner read only
            with suppress(PermissionError):  # file systems without permissions of each file
                shutil.copymode(partial / "README.md", file)
        if folder.is_symlink():
            warn(
                f"{folder}: was a link to {os.readlink(folder)}, which stays as it is; the model is here now"
            )
        else:
            keep_edited_card(folder, partial)
            _copy_files_of_others(folder, partial)
        _exchange(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"{folder}: cannot be written: {error}; the checkpoint of its last step is whole: make room, and"
            " give the same command again"
        ) from error
    return folder


def restore_model(output: Path) -> None:
    """Put back the model that a killed process had set aside; remove it where the new one took its place.

    output: the run's folder, which no other process trains into.
    """
    folder, before = output / MODEL, output / SET_ASIDE
    if holds_files(folder):
        _remove(before)
    elif os.path.lexists(before):
        os.replace(before, folder)


def holds_files(folder: Path) -> bool:
    """Whether a path is a folder, or a link to one, with anything in it."""
    return folder.is_dir() and any(folder.iterdir())


def _copy_files_of_others(before: Path, folder: Path) -> None:
    """Copy what an earlier model's folder has and the new one has not."""
    for old in sorted(path for path in before.rglob("*") if path.is_file() or path.is_symlink()):
        kept = folder / old.relative_to(before)
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old, kept, follow_symlinks=False)


def _exchange(new: Path, folder: Path) -> None:
    """Give a new folder, or a link, the name of another, which is there again where that fails."""
    before = folder.with_name(SET_ASIDE)
    if is_there := os.path.lexists(folder):
        os.replace(folder, before)
    try:
        os.replace(new, folder)
    except OSError:
        if is_there:
            os.replace(before, folder)
        raise
    _remove(before)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
