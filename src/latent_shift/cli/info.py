"""`latent-shift info FILE`: the settings embedded in a generated file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def info(
    file: Annotated[Path, typer.Argument(help="A file made by latent-shift: .mp4, .gif, .webp or .png.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Print the settings that a generated file was made with."""
    from latent_shift.media import read_settings

    settings = read_settings(file)
    if as_json:
        print(json.dumps({"file": str(file), **settings}))
        return
    width = max(map(len, settings), default=0)
    for name, value in settings.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
