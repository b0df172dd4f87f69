"""The Python of docs/method.md, run as it stands there, on a tiny U-Net; its table of options is complete."""

import re
from dataclasses import fields
from pathlib import Path

from diffusers.models.resnet import ResnetBlock2D

from latent_shift.shift import ShiftOptions
from latent_shift.unet import ShiftedResnetBlock2D
from tiny import tiny_unet

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    *enabling, disabling, end = code.split("\n")
    unet = tiny_unet()
    names = {"unet": unet}
    exec("\n".join(enabling), names)
    (state,) = {block.shift_state for block in unet.modules() if isinstance(block, ShiftedResnetBlock2D)}
    assert (state.num_frames, state.options) == (16, ShiftOptions(padding="circular"))
    exec(disabling, names)
    assert ResnetBlock2D in map(type, unet.modules())
    assert ShiftedResnetBlock2D not in map(type, unet.modules())
    assert end == ""


def test_the_table_has_every_option():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [field.name for field in fields(ShiftOptions)]
