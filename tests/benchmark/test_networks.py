"""U-Nets side by side: what is counted, that they take turns, and that a stopped measurement goes on."""

import json
import sys

import pytest
import torch

from latent_shift.benchmark import cells, memory
from latent_shift.benchmark.cells import Plan, measure, read_cells
from latent_shift.benchmark.measure import Times, ratio, take_turns
from latent_shift.benchmark.networks import IMAGE, NETWORKS, SHIFT, Bench, count
from latent_shift.benchmark.tables import cell_tables, write_plots
from latent_shift.unet import ShiftedResnetBlock2D

CPU = ("cpu", "fp32")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operations, which several threads only wait for
    yield
    torch.set_num_threads(threads)


def test_calls_take_turns_and_warmups_do_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    found = take_turns(calls, warmups=1, repeats=2)
    assert order == ["a", "b"] * 3
    assert {name: (len(one.wall), len(one.cpu)) for name, one in found.items()} == {"a": (2, 2), "b": (2, 2)}


def test_ratios_are_of_the_same_round():
    first, second = Times(wall=[4, 9, 8], cpu=[1, 1, 1]), Times(wall=[2, 3, 2], cpu=[2, 2, 2])
    spread = ratio(first, second, cpu=False)
    assert (spread.median, spread.low, spread.high) == (3, 2, 4)
    assert ratio(first, second, cpu=True).median == 0.5
    assert first.seconds(cpu=False) == 8


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_makes_a_prediction_of_the_clips_shape(name):
    if name == SHIFT:
        pytest.skip("the image model's U-Net; see the next test")
    bench = Bench(name, "tiny", 2, 64, "cpu", torch.float32)
    inputs = bench.inputs()
    out = bench.sample(inputs)
    assert out.shape == inputs["sample"].shape
    assert torch.isfinite(out).all()
    assert out.std() > 0.01
    bench.train(inputs)
    assert all(one.grad is None for one in bench.unet.parameters())


def test_the_shift_comes_and_goes_in_the_image_models_unet():
    bench = Bench(IMAGE, "tiny", 2, 64, "cpu", torch.float32)
    inputs = bench.inputs()
    before = bench.sample(inputs)
    bench.shifted(True)
    assert any(isinstance(one, ShiftedResnetBlock2D) for one in bench.unet.modules())
    assert not torch.equal(bench.sample(inputs), before)
    bench.shifted(False)
    assert torch.equal(bench.sample(inputs), before)


def test_the_shift_adds_neither_parameters_nor_arithmetic():
    image, shift, peer = (
        count(name, "tiny", 4, 64, torch.float32, "pass") for name in (IMAGE, SHIFT, "unet3d")
    )
    assert (shift.parameters, shift.gmac) == (image.parameters, image.gmac)
    assert peer.parameters > image.parameters
    assert peer.gmac > image.gmac
    step = count(SHIFT, "tiny", 4, 64, torch.float32, "step")
    assert step.gmac > 3 * shift.gmac  # checkpointing computes the forward pass twice
    assert step.live_bytes > shift.live_bytes


def test_cells_are_kept_and_only_the_missing_are_measured(tmp_path):
    plan = Plan([IMAGE, SHIFT, "latent-vdm"], "tiny", [2], [64], ["pass"], *CPU, 0, 2, memory=False)
    said = []
    measure(plan, tmp_path, lambda *told: said.append(told))
    assert said[0] == ("image pass 2x64", 1, 2)
    found = {cell.network: cell for cell in read_cells(tmp_path)}
    assert found.keys() == {IMAGE, SHIFT, "latent-vdm"}
    assert all(len(cell.times.cpu) == len(cell.image.cpu) == 2 for cell in found.values())
    (tmp_path / "cells" / "tiny-pass-cpu-fp32-2x64-shift.json").unlink()
    del said[:]
    measure(plan, tmp_path, lambda *told: said.append(told))
    assert [told[0] for told in said] == ["shift pass 2x64"] * 2
    file = tmp_path / "cells" / "tiny-pass-cpu-fp32-2x64-shift.json"  # as if by another number of threads
    cell = json.loads(file.read_text())
    file.write_text(json.dumps({**cell, "machine": {**cell["machine"], "threads": 99}}))
    del said[:]
    measure(plan, tmp_path, lambda *told: said.append(told))
    assert [told[0] for told in said] == ["shift pass 2x64"] * 2
    (table,) = cell_tables(read_cells(tmp_path))
    assert [row[0] for row in table.rows] == ["image model, frame by frame", "shift", "Latent-VDM, both"]
    assert table.markdown().startswith("**tiny, one pass, 2 frames of 64x64, fp32, cpu**")
    (plot,) = write_plots(read_cells(tmp_path), tmp_path)
    assert "seconds over the image model's, 2 frames" in plot.read_text()


def test_what_does_not_fit_in_memory_is_said_and_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "available_memory", lambda device: 2**20)
    plan = Plan(["unet3d"], "tiny", [2], [64], ["step"], *CPU, 0, 1, memory=False)
    measure(plan, tmp_path, lambda *told: None)
    (cell,) = read_cells(tmp_path)
    assert cell.times is None
    assert cell.left_out.startswith("needs 0.")
    (table,) = cell_tables([cell])
    assert "GiB" in table.rows[0][3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["unet4d"]}, "network 'unet4d': expected one of image, shift"),
        ({"size": "sdxl", "networks": ["unet-motion"]}, "network 'unet-motion': size sdxl has image, shift"),
        ({"size": "sd-9"}, "size 'sd-9': expected one of sd-1"),
        ({"modes": ["dream"]}, "mode 'dream': expected one of pass, step"),
        ({"resolutions": [100]}, "resolution 100: give a multiple of 64"),
        ({"frames": [0]}, "give 1 or more"),
    ],
)
def test_plans_that_are_none(changes, message):
    given = {"networks": [IMAGE], "size": "tiny", "frames": [2], "resolutions": [64], "modes": ["pass"]}
    with pytest.raises(ValueError, match=message):
        Plan(**{**given, **changes}, device="cpu", dtype="fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no mappings")
def test_pages_of_libraries_are_told_from_what_a_call_takes():
    before = memory._library_pages()
    held = bytearray(64 * 2**20)
    assert 0 < before <= memory._library_pages() < memory._resident()
    assert memory._library_pages() - before < len(held) // 2
