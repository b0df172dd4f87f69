"""The pack of emoji: every animation over one whole loop and every still, as RGBA, in one safetensors file.

    pack = Pack.open(Path("runs/emoji/pack.safetensors"))
    pack.clips[3].name           # "water wave"
    pack.frames(3)               # uint8 (F, S, S, 4), RGB premultiplied by alpha

Frames of all clips follow each other in one tensor; names, words and licences are JSON in the file's header.

Shapes: F frames of a clip, S pixels a side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latent_shift.io import atomic_file

FORMAT = "latent-shift emoji pack 1"
RGBA = NDArray[np.uint8]  # (F, S, S, 4)
SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")


@dataclass(frozen=True)
class EmojiClip:
    """One animation, or one still.

    code: code points, joined by "-", without variation selectors. tone: skin tone in words, "" for none.
    keywords: words and phrases that describe it besides its name. still: whether it is a picture without
    motion. first, count: its frames in the pack.
    """

    style: str
    code: str
    name: str
    tone: str
    group: str
    keywords: tuple[str, ...]
    licence: str
    still: bool
    first: int = 0
    count: int = 0

    @property
    def emoji(self) -> str:
        """The code without skin tones: which emoji this is."""
        return "-".join(part for part in self.code.split("-") if part not in SKIN_TONES)


class Pack:
    """An open pack. Frames are read from the file when needed, so that processes may share it.

    listed: animated styles of every emoji without skin tone by its code, of pictures that it lacks, too:
    what is held out does not depend on them.
    """

    def __init__(
        self,
        path: Path,
        clips: tuple[EmojiClip, ...],
        listed: dict[str, tuple[str, ...]],
        size: int,
        fps: float,
        digest: str,
    ) -> None:
        self.path, self.clips, self.listed = path, clips, listed
        self.size, self.fps, self.digest = size, fps, digest

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read the list of clips. Raises ValueError for a file that is missing, damaged or no pack."""
        if not path.is_file():
            raise ValueError(f"pack {path}: no such file; make it: python recipes/emoji/prepare.py")
        try:
            with safe_open(path, framework="numpy") as file:
                told = file.metadata() or {}
                shape = file.get_slice("rgba").get_shape()
            if told.get("format") != FORMAT:
                raise ValueError(
                    f"pack {path}: is no pack of emoji, but {told.get('format')!r}; make it anew"
                )
            rows = json.loads(told["clips"])
            clips = tuple(EmojiClip(**{**row, "keywords": tuple(row["keywords"])}) for row in rows)
            listed = {code: tuple(styles) for code, styles in json.loads(told["listed"]).items()}
            return cls(path, clips, listed, int(shape[1]), float(told["fps"]), told["digest"])
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"pack {path}: is damaged ({error}); remove it and make it anew") from error

    def frames(self, number: int) -> RGBA:
        """All frames of a clip (F, S, S, 4), RGB premultiplied by alpha."""
        clip = self.clips[number]
        return np.asarray(self._file.get_slice("rgba")[clip.first : clip.first + clip.count])

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path, framework="numpy")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __len__(self) -> int:
        return len(self.clips)


def animated_styles(clips: Iterable[EmojiClip]) -> dict[str, list[str]]:
    """Styles of the animations without skin tones, by code."""
    styles: dict[str, list[str]] = {}
    for clip in clips:
        if not clip.still and not clip.tone:
            styles.setdefault(clip.code, []).append(clip.style)
    return styles


def write_pack(
    path: Path,
    clips: Iterable[tuple[EmojiClip, RGBA]],
    *,
    fps: float,
    digest: str,
    listed: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write clips with their frames (F, S, S, 4), all of one size, whole or not at all; return their number.

    Args:
        path: of the file.
        clips: each with its frames.
        fps: frames a second of the animations.
        digest: of all that decides the frames, for stores of latents.
        listed: as in `Pack`; None: those of the clips.

    Raises:
        ValueError: for frames of another type or size than the first clip's, and without a clip.
    """
    rows: list[dict[str, Any]] = []
    parts: list[RGBA] = []
    first = 0
    kept: list[EmojiClip] = []
    for clip, frames in clips:
        expected = parts[0].shape[1:] if parts else (*frames.shape[1:3], 4)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != expected or not len(frames):
            raise ValueError(f"{clip.style} {clip.code}: frames are {frames.dtype} {frames.shape}")
        rows.append(asdict(replace(clip, first=first, count=len(frames))))
        parts.append(frames)
        kept.append(clip)
        first += len(frames)
    if not parts:
        raise ValueError(f"{path}: there is no clip to write")
    if listed is None:
        listed = animated_styles(kept)
    told = {
        "format": FORMAT, "fps": repr(fps), "digest": digest, "clips": json.dumps(rows),
        "listed": json.dumps({code: list(styles) for code, styles in sorted(listed.items())}),
    }  # fmt: skip
    with atomic_file(path) as partial:
        # In C order: of another, safetensors would write the numbers as they lie in memory.
        save_file({"rgba": np.ascontiguousarray(np.concatenate(parts))}, partial, told)
    return len(rows)
