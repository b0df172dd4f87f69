"""Frozen values: `frozen.json` as the proofs compare with it, and as `PROOFS=freeze` writes it.

Floating-point arithmetic gives the same bits on the same kernels only, so the file names the machine that it
was written on. There every value has to be equal; on another machine a proof that says how near is near
enough is held to that, and all others to equality still. No proof is skipped anywhere.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name("frozen.json")
FREEZING = os.environ.get("PROOFS") == "freeze"
FREEZE = "PROOFS=freeze python -m pytest tests/proofs"
PACKAGES = ("torch", "numpy", "diffusers", "transformers")
CPU_FACTS = ("vendor_id", "cpu family", "model")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """What the last bits of a result depend on: packages, CPU and kernels; the proofs use one thread."""
    facts: dict[str, str] = {}
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        first = cpus.read_text(encoding="utf-8").split("\n\n")[0]
        facts = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in first.splitlines())
        }
    flags = facts.get("flags", "").split()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        **{key: facts.get(key) for key in CPU_FACTS},
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        **{name: version(name) for name in PACKAGES},
    }


class Frozen:
    """The frozen values, by section and name: compared with what is found now or, freezing, set to it."""

    def __init__(self) -> None:
        self.machine = machine()
        stored = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
        self.machine_then = stored.get("machine", {})
        self.same_machine = self.machine == self.machine_then
        # Values of two machines never stand in one file.
        self.sections = stored.get("sections", {}) if self.same_machine or not FREEZING else {}

    def expect(
        self, section: str, name: str, found: Any, near: Callable[[Any, Any], str | None] | None = None
    ) -> None:
        """Assert that a value is the frozen one.

        near: tells on another machine what of `found` is too far from the frozen value, None if nothing is;
        without it the value has to be equal on every machine.
        """
        found = json.loads(json.dumps(found))  # lists for tuples, as they come from the file
        if FREEZING:
            self.sections.setdefault(section, {})[name] = found
            return
        kept = self.sections.get(section, {}).get(name)
        assert kept is not None, f"{section}: {name}: nothing is frozen; if it is new: {FREEZE} -k '{name}'"
        if near is None or self.same_machine:
            assert found == kept, f"{section}: {name}: changed; if it should have: {FREEZE}, and say why"
        else:
            told = near(found, kept)
            assert told is None, f"{section}: {name}: {told}, on another machine: {self.differences()}"

    def differences(self) -> str:
        """What distinguishes this machine from that of the file."""
        keys = dict.fromkeys([*self.machine_then, *self.machine])
        pairs = ((key, self.machine_then.get(key), self.machine.get(key)) for key in keys)
        return ", ".join(f"{key} {then!r} -> {now!r}" for key, then, now in pairs if then != now)

    def write(self) -> None:
        """Write the file: a line a value."""
        sections = ",\n".join(
            f" {json.dumps(section)}: {{\n"
            + ",\n".join(
                f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(values.items())
            )
            + "\n }"
            for section, values in sorted(self.sections.items())
        )
        text = f'{{"machine": {json.dumps(self.machine)},\n"sections": {{\n{sections}\n}}}}\n'
        partial = FILE.with_suffix(".unfinished")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, FILE)


def numbers_near(found: Any, kept: Any, *, relative: float, absolute: float = 0.0) -> str | None:
    """The first number, in lists or mappings of equal form, that is too far from its frozen one."""
    if isinstance(kept, dict) and isinstance(found, dict) and list(kept) == list(found):
        found, kept = list(found.values()), list(kept.values())
    if isinstance(kept, Sequence) and not isinstance(kept, str):
        if not isinstance(found, Sequence) or len(found) != len(kept):
            return f"{found!r} is not of the form of {kept!r}"
        pairs = zip(found, kept, strict=True)
        told = (numbers_near(*pair, relative=relative, absolute=absolute) for pair in pairs)
        return next((one for one in told if one is not None), None)
    both = all(isinstance(one, int | float) for one in (found, kept))
    if found == kept or (both and math.isclose(found, kept, rel_tol=relative, abs_tol=absolute)):
        return None
    return f"{found!r} is not within {relative:g} of {kept!r}"
