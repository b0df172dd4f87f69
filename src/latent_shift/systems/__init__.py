"""Text-to-video systems behind one interface (`base.TextToVideoSystem`), one file each.

    system = systems.load("moving-shapes")
    clips = system.generate([GenerationRequest(prompt="a red circle", seed=1)])   # uint8 (1, F, H, W, 3)

A new system is a file here and a line in `SYSTEMS`. Nothing outside this folder knows one by name.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from latent_shift.documents import read_json_mapping
from latent_shift.model_files import SYSTEM_FILE, model_of_run
from latent_shift.registry import Registry
from latent_shift.systems.base import TEMPORAL_FILE, RequestDefaults, TextToVideoSystem

DEFAULT_SYSTEM = "latent_shift"
_HERE = "latent_shift.systems"
SYSTEMS = Registry(
    "system",
    "latent_shift.systems",
    {
        DEFAULT_SYSTEM: f"{_HERE}.latent_shift:LatentShift",
        "shift_off": f"{_HERE}.shift_off:ShiftOff",
        "latent_vdm": f"{_HERE}.latent_vdm:LatentVDM",
        "motion_module": f"{_HERE}.motion_module:MotionModules",
        "first_frame": f"{_HERE}.first_frame:FirstFrame",
        "diffusers_pipeline": f"{_HERE}.diffusers_pipeline:DiffusersPipeline",
        "make_a_video": f"{_HERE}.make_a_video.system:MakeAVideo",
        "cogvideo": f"{_HERE}.cogvideo.system:CogVideo",
    },
)

__all__ = ["DEFAULT_SYSTEM", "SYSTEMS", "find", "inspect", "load"]


def find(name: str | Path) -> type[TextToVideoSystem]:
    """The system of a model: a folder's `system.json` or a prefix names it, all others are `latent_shift`.

    A prefix, as in "diffusers_pipeline:org/name", is for models that have no `system.json`. Raises ValueError
    for a `system.json` that names no known system, and where it is missing beside temporal layers.
    """
    return _split(name)[0]


def inspect(name: str | Path, **options: Any) -> RequestDefaults:
    """Check a model's files and read its defaults, without reading weights. Options and errors: as `load`."""
    system, path = _split(name)
    return system.inspect(path, **_known(system, options, system.inspect))


def load(name: str | Path, *, device: str = "auto", dtype: str = "auto", **options: Any) -> TextToVideoSystem:
    """Load a model: a built-in name, a folder (of a model, or of the run that made it), a hub id or a file.

    "SYSTEM:" may stand before it.

    device, dtype: "auto" or one of `checkpoints.DEVICES`, `checkpoints.DTYPES`. options: those of the
    system's own `load`; None leaves one out. Raises ValueError for a model that cannot be loaded, and an
    option that its system does not have.
    """
    system, path = _split(name)
    return system.load(path, device=device, dtype=dtype, **_known(system, options, system.load))


def _split(name: str | Path) -> tuple[type[TextToVideoSystem], str | Path]:
    """A model's system, and its name without a prefix."""
    prefix, _, rest = str(name).partition(":")
    if rest and prefix in SYSTEMS:
        return SYSTEMS[prefix], model_of_run(Path(rest)) if Path(rest).is_dir() else rest
    if str(name) and Path(name).is_dir():
        name = model_of_run(Path(name))
    file = Path(name) / SYSTEM_FILE
    if not file.is_file():
        if (file.parent / TEMPORAL_FILE).is_file():
            raise ValueError(
                f"{file}: is missing, which says what the layers of {TEMPORAL_FILE} beside it are; fetch it"
            )
        return SYSTEMS[DEFAULT_SYSTEM], name
    content = read_json_mapping(file)
    try:
        return SYSTEMS[str(content.get("system"))], name
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _known(system: type[TextToVideoSystem], options: dict[str, Any], call: Any) -> dict[str, Any]:
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in signature(call).parameters:
            raise ValueError(f"{option} {value}: models of the system {system.name} have no such option")
    return given
