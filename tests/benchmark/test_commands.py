"""The commands of `latent-shift benchmark`, on tiny networks and a tiny model."""

import json
import shutil
import sys

import pytest
import torch

from latent_shift.benchmark import addition
from latent_shift.benchmark.floor import kind_of
from program import run_program
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.slow
def test_networks(tmp_path, capsys):
    given = ("--size", "tiny", "--networks", "shift,unet3d", "--frames", "2", "--resolution", "64")
    how = ("--dtype", "fp32", "--device", "cpu", "--repeats", 1, "--warmups", 0, "-o", tmp_path)
    page = tmp_path / "page.md"
    status, out, said = run_program(capsys, "benchmark", "networks", *given, *how, "--markdown", page)
    assert (status, said) == (0, "")
    assert "| shift | 2.4 |" in out
    assert "UNet3DConditionModel" in page.read_text()
    assert "<!-- begin networks tiny pass -->" in page.read_text()
    assert (tmp_path / "tiny-pass-cpu-fp32-64-ratios.svg").is_file()
    file = tmp_path / "cells" / "tiny-pass-cpu-fp32-2x64-shift.json"
    cell = json.loads(file.read_text())
    file.write_text(json.dumps({**cell, "machine": {**cell["machine"], "date": "2020-01-02"}}))
    run_program(capsys, "benchmark", "networks", *given, *how, "--markdown", page)
    assert "2020-01-02; " in page.read_text()  # a figure of that day, beside those of this one
    status, out, _ = run_program(capsys, "benchmark", "networks", *given, *how, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["network"] for line in lines] == ["shift", "unet3d"]
    assert all(line["peak"] > 2**20 for line in lines)
    step = (*given, "--networks", "shift", "--modes", "step", "--no-memory", *how, "--markdown", page)
    assert run_program(capsys, "benchmark", "networks", *step)[0] == 0
    block = page.read_text().partition("<!-- begin networks tiny step -->")[2]
    assert "one training step" in block
    assert "one pass" not in block  # what the folder holds of other modes has a block of its own
    status, _, said = run_program(capsys, "benchmark", "networks", *given, "--modes", "", *how)
    assert (status, "--modes '': names none; known are pass and step" in said) == (2, True)


def test_systems(model, capsys):
    both = ("--model", model, "--model", f"latent_shift:{model}", "--prompt", "a red circle")
    given = (*both, "--repeats", 1, "--warmups", 0, "--no-memory")
    status, out, said = run_program(capsys, "benchmark", "systems", *given, "--dtype", "fp32", "--json")
    assert (status, said) == (0, "")
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["gmac"] == second["gmac"] > 0
    assert first["calls"] > 3
    assert len(first["times"]["cpu"]) == 1


def test_each_system_takes_its_own_steps(model, capsys, tmp_path):
    other = tmp_path / "fewer"
    shutil.copytree(model, other)
    settings = json.loads((other / "latent_shift.json").read_text())
    (other / "latent_shift.json").write_text(json.dumps({**settings, "num_inference_steps": 2}))
    both = ("--model", model, "--model", other, "--prompt", "a red circle", "--dtype", "fp32")
    given = ("benchmark", "systems", *both, "--repeats", 1, "--warmups", 0, "--no-memory")
    _, out, _ = run_program(capsys, *given, "--json")
    own = [json.loads(line)["calls"] for line in out.splitlines()]
    _, out, _ = run_program(capsys, *given, "--steps", 2, "--json")
    same = [json.loads(line)["calls"] for line in out.splitlines()]
    assert own[0] > own[1] == same[0] == same[1]


def test_floor_of_a_system(model, capsys, tmp_path, monkeypatch):
    how = ("--model", model, "--dtype", "fp32", "--device", "cpu", "--repeats", 1)
    page = tmp_path / "my page.md"
    given = ("benchmark", "floor", *how, "--json", "--markdown", page)
    monkeypatch.setattr(sys, "argv", ["latent-shift", *map(str, given), "\udcff"])
    status, out, _ = run_program(capsys, *given)
    assert f"--markdown '{page}' '\\udcff'`" in page.read_text()  # a command that can be repeated
    found = json.loads(out)
    assert status == 0
    for option, value in (("size", "tiny"), ("frames", 3), ("resolution", 64)):
        status, _, said = run_program(capsys, *given, f"--{option}", value)
        assert (status, f"--{option} {value}: is of the U-Net's pass" in said) == (2, True)
    assert found["rate"] > 1
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert "convolutions" in found["shares"]


def test_operations_have_a_kind():
    names = ("mkldnn_convolution", "addmm", "native_group_norm", "silu", "copy_", "add", "arange")
    found = [kind_of(f"aten::{name}") for name in names]
    assert found == [
        "convolutions", "linear layers", "norms", "activations", "copies, layout", "additions, the shift",
        "other"
    ]  # fmt: skip


def test_the_addition_is_compared_in_both_layouts_and_directions():
    rows = list(addition.measure("cpu", 2, (((32, 12, 4, 4), torch.float32),)))
    assert [(row.layout, row.direction) for row in rows] == [
        ("contiguous_format", "forward"), ("contiguous_format", "backward"),
        ("channels_last", "forward"), ("channels_last", "backward"),
    ]  # fmt: skip
    assert all(row.ratio.median > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["networks", "--size", "sd-9"], "size 'sd-9'"),
        (["networks", "--frames", "some"], "--frames 'some': give whole numbers"),
        (["systems", "--model", "nosuch"], "unknown model"),
        (["systems", "--model", "moving-shapes", "--model", "moving-shapes"], "is named twice"),
        (["networks", "--size", "tiny", "--warmups", "-1"], "-1 warmups: give 0 or more"),
        (["step", "nosuch.yaml"], "nosuch.yaml"),
        (["full-size", "--size", "huge"], "--size huge: expected one of full, tiny"),
    ],
)
def test_what_is_refused(capsys, arguments, message):
    status, out, said = run_program(capsys, "benchmark", *arguments)
    assert (status, out) == (2, "")
    assert message in said
