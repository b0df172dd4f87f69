"""A tiny pack of emoji, drawn here: coloured figures that move by themselves, in both styles, and stills.

path = tiny_pack(tmp_path / "pack.safetensors")       # 24 emoji, 32 pixels, 8 in both styles
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latent_shift.emoji.pack import RGBA, EmojiClip, write_pack

NAMES = (
    "rocket", "ghost", "kitten face", "red apple", "umbrella", "blue heart", "ewe", "Santa Claus", "drum",
    "tree", "octopus", "unicorn", "clock", "guitar", "robot", "sun", "moon", "star", "wave", "fire",
    "pizza", "bell",
    "key", "bug",
)  # fmt: skip
BOTH = 16  # of the first of them are in both styles


def figure(number: int, style: str, frames: int = 12, size: int = 32, tone: int = 0) -> RGBA:
    """An own colour and shape for each number; a bar goes round, at a speed by the number."""
    y, x = (np.mgrid[:size, :size] + 0.5) * 2 / size - 1
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    colour = 40 + np.array([(number * 73 + tone * 40) % 180, (number * 151) % 180, (number * 31) % 180])
    loop = np.zeros((frames, size, size, 4), np.float32)
    for frame in range(frames):
        turn = 2 * np.pi * frame / frames
        body = radius < 0.7 + 0.2 * np.cos((2 + number % 5) * angle + (0.5 if style == "noto" else 0))
        swing = 0.5 * np.sin(turn * (1 + number % 3))
        bar = (np.abs(x - swing) < 0.16) & (np.abs(y - 0.3 * (number % 4 - 1.5)) < 0.3)
        loop[frame][body] = [*colour, 255]
        loop[frame][bar & body] = [*(255 - colour), 255]
    return loop.round().astype(np.uint8)


def tiny_clips(count: int = len(NAMES), size: int = 32) -> list[tuple[EmojiClip, RGBA]]:
    """The clips of `tiny_pack`, and their frames."""
    found = []
    for number, name in enumerate(NAMES[:count]):
        code, words = (
            f"1f{600 + number}",
            (f"thing {number}", f"alpha{number}", f"beta{number}", f"gamma{number}", name),
        )
        for style in ("fluent", "noto")[: 1 + (number < BOTH)]:
            clip = EmojiClip(style, code, name, "", "Objects", words, "MIT", still=False)
            found.append((clip, figure(number, style, size=size)))
        if number == 7:
            toned = EmojiClip(
                "fluent", f"{code}-1f3fd", name, "medium", "People & Body", words, "MIT", still=False
            )
            found.append((toned, figure(number, "fluent", size=size, tone=3)))
        for style in ("fluent", "noto", "twemoji"):
            still = EmojiClip(style, code, name, "", "Objects", words, "MIT", still=True)
            found.append((still, figure(number, style, frames=1, size=size)))
    still = EmojiClip("twemoji", "1f999", "llama", "", "", (), "CC BY 4.0", still=True)
    return [*found, (still, figure(30, "twemoji", frames=1, size=size))]


def tiny_pack(path: Path, count: int = len(NAMES), *, size: int = 32, digest: str = "tiny") -> Path:
    """Write the pack."""
    write_pack(path, tiny_clips(count, size), fps=8.0, digest=digest)
    return path
