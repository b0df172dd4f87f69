"""Contents of recipes: the folders that they name, and those that take their place in a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

ASSETS = "src/latent_shift/assets"  # in recipes: the package's parts, wherever it is installed
_NETWORK = ("unet", "autoencoder", "transformer", "quantizer", "scheduler", "size", "patch")
_STORES = ("latents", "tokens")  # sections that name a source in one of theirs
_PACKAGED = "latent_shift/assets"  # how that folder ends


def assets() -> dict[str, str]:
    """The package's folder of parts, for the path that recipes name, where that is not the same."""
    packaged = Path(str(files("latent_shift"))) / "assets"
    here = Path(ASSETS)
    return {} if here.is_dir() and here.resolve() == packaged.resolve() else {ASSETS: str(packaged)}


def with_names_of_recipes(value: Any) -> Any:
    """A resolved recipe's content in which parts of the package are named as in the project's recipes."""
    if isinstance(value, dict):
        return {key: with_names_of_recipes(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_names_of_recipes(one) for one in value]
    if isinstance(value, str) and f"/{_PACKAGED}/" in f"/{value}":
        return f"{ASSETS}/{value.partition(f'{_PACKAGED}/')[2]}"
    return value


def made_from(content: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a resolved recipe that decide the network and its data, and not how it is trained."""
    # A folder says where a network lies, and not what it is.
    parts = {
        key: content[key]
        for key in (*_NETWORK, "source")
        if key in content and not isinstance(content[key], str)
    }
    held = {key: {"source": content[key]["source"]} for key in _STORES if content.get(key)}
    named: dict[str, Any] = with_names_of_recipes(parts | held)
    return named


def flat(values: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a mapping, by keys such as "a.b"."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{parent}{key}.")
        else:
            yield f"{parent}{key}", value


def replaced(value: Any, folders: Mapping[str, str]) -> Any:
    """A value with the folders that texts begin with replaced, the longest first."""
    if isinstance(value, dict):
        return {key: replaced(one, folders) for key, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, folders) for one in value]
    if isinstance(value, str):
        for old in sorted(folders, key=len, reverse=True):
            if value == old or value.startswith(f"{old}/"):
                return folders[old] + value.removeprefix(old)
    return value
