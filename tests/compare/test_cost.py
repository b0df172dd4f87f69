"""Cost: counted multiply-adds and calls, seconds in turns."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from latent_shift.benchmark import measure
from latent_shift.benchmark.measure import MultiplyAdds
from latent_shift.compare import cost
from latent_shift.compare.cost import count_sampling, machine_line
from latent_shift.compare.memory import peak_memory
from latent_shift.systems.latent_shift import LatentShift
from tiny import tiny_pipeline_folder, tiny_unet


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operations, which several threads only wait for
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_multiply_adds_are_torchs_own_forward_and_backward():
    unet, sample, text = tiny_unet(), torch.randn(2, 4, 8, 8), torch.randn(2, 12, 16)
    counts = []
    for counter in (FlopCounterMode(display=False), MultiplyAdds()):
        with sdpa_kernel(SDPBackend.MATH), counter:
            unet(sample, 1, text).sample.square().mean().backward()
        counts.append(counter)
    assert counts[1].total == counts[0].get_total_flops() // 2 > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_multiply_adds_without_gradients(mode):
    linear, query = torch.nn.Linear(7, 5, bias=False), torch.randn(1, 2, 4, 8)
    with sdpa_kernel(SDPBackend.MATH), MultiplyAdds() as counter, mode():
        linear(torch.randn(3, 7))
        assert counter.total == 3 * 7 * 5
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.total == 3 * 7 * 5 + 2 * (2 * 4 * 4 * 8)


def test_networks_that_are_called_for_a_clip(folder, monkeypatch):
    monkeypatch.setattr(cost, "_requests", lambda frames, count: tiny_requests(count, steps=3))
    system = LatentShift.load(folder, device="cpu")
    gmac, calls = count_sampling(system, 4)
    once = count_sampling(system, 4)
    assert once == (gmac, calls)
    monkeypatch.setattr(cost, "_requests", lambda frames, count: tiny_requests(count, steps=5))
    more, more_calls = count_sampling(system, 4)
    assert more_calls - calls == 2  # the U-Net, for each step once
    assert more > gmac > 0


def tiny_requests(count, **values):
    from latent_shift.systems.base import GenerationRequest

    first = GenerationRequest(prompt="a red circle", frames=4, height=32, width=32, **values)
    return [first.model_copy(update={"seed": seed}) for seed in range(count)]


def test_systems_take_turns_and_the_first_rounds_do_not_count(monkeypatch):
    now, order = [0.0], []

    class Slow:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, iter(seconds)

        def generate(self, requests):
            order.append(self.name)
            now[0] += next(self.seconds) * len(requests)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    loaded = {"a": Slow("a", [9, 1, 2, 3]), "b": Slow("b", [9, 5, 5, 8])}
    found = cost._seconds(loaded, 4, 2, 1, 3, lambda name, done, total: None)
    assert found == {"a": 2, "b": 5}
    assert order == ["a", "b"] * 4


def test_a_model_whose_memory_cannot_be_measured(tmp_path):
    with pytest.raises(ValueError, match="the memory of .*nosuch cannot be measured: "):
        peak_memory([tmp_path / "nosuch"], 6, "fp32")


def test_a_machine_in_a_line():
    machine = {"machine": "cpu, 2 cores", "threads": 2, "date": "2026-01-01", "versions": {"torch": "2.13"}}
    assert machine_line(machine).startswith("cpu, 2 cores, 2 threads, ")
    assert machine_line(machine).endswith("2026-01-01, torch 2.13")
