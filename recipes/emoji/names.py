"""Names of emoji by their code points, as the package reads an emoji in a prompt.

    python recipes/emoji/names.py [runs/emoji/pack.safetensors] [-o src/latent_shift/assets/emoji_names.json]

Run once; its result is part of the package.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from latent_shift.emoji.pack import Pack
from latent_shift.io import write_text


def main() -> None:
    """Write the names of all emoji of a pack that have no skin tone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pack", type=Path, nargs="?", default=Path("runs/emoji/pack.safetensors"))
    parser.add_argument("-o", "--output", type=Path, default=Path("src/latent_shift/assets/emoji_names.json"))
    given = parser.parse_args()
    # Animations first: their names are those of the captions that the model learns.
    clips = sorted(Pack.open(given.pack).clips, key=lambda clip: clip.still)
    names: dict[str, str] = {}
    for clip in clips:
        if not clip.tone:
            names.setdefault(clip.code, clip.name.lower())
    write_text(given.output, json.dumps(dict(sorted(names.items())), indent=0) + "\n")
    print(f"{given.output}: {len(names)} names")


if __name__ == "__main__":
    main()
