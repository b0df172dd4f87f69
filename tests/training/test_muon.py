"""Muon steps matrices as torch's own does and all else as AdamW, and resumes where it stopped."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latent_shift import precision
from latent_shift.training.checkpoint import read_optimizer, write_optimizer
from latent_shift.training.optim import Muon, is_matrix

SHAPES = {
    "linear": (96, 64),
    "kernel": (64, 32, 3, 3),
    "first kernel": (64, 4, 3, 3),
    "low rank": (16, 128),
    "bias": (96,),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator) * 0.1) for name, shape in SHAPES.items()
    }


def give_gradients(trained, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in trained:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def flat(kernel):
    """The same numbers as a matrix parameter of its own."""
    return nn.Parameter(kernel.detach().clone().reshape(len(kernel), -1))


def test_matrices_are_those_with_two_long_sides():
    assert [name for name, parameter in parameters().items() if is_matrix(parameter)] == ["linear", "kernel"]


def directions(*gradients):
    """What the first step of a learning rate of 1 does to zeros, in units of its length."""
    trained = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(trained, lr=1.0, weight_decay=0.0).step()
    return [-one.detach() / (0.2 * max(one.shape) ** 0.5) for one in trained]


def test_all_singular_values_become_about_one():
    generator = torch.Generator().manual_seed(1)
    steep = torch.randn(96, 64, generator=generator) * torch.logspace(0, -1, 64)
    (direction,) = directions(steep)
    values = torch.linalg.svdvals(direction)
    assert values.min() > 0.6
    assert values.max() < 1.3
    one, _, other = torch.linalg.svd(steep, full_matrices=False)
    likeness = torch.nn.functional.cosine_similarity(direction.flatten(), (one @ other).flatten(), dim=0)
    assert likeness > 0.97


def test_matrices_taken_together_are_orthogonalized_each_on_its_own():
    matrices = (
        torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1, 5, 0.1])[:, None, None]
    )
    alone = torch.stack([directions(each)[0] for each in matrices])
    torch.testing.assert_close(torch.stack(directions(*matrices)), alone, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("name", ["linear", "kernel"])
def test_a_matrix_steps_as_with_torchs_own(monkeypatch, name, instructions):
    """Bit for bit where the processor has instructions for bfloat16; else in float32, and more exactly."""
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: instructions)
    before = flat(parameters()[name])
    ours, theirs = parameters()[name], flat(parameters()[name])
    settings = {"lr": 0.01, "weight_decay": 0.1}
    first = Muon([ours], **settings)
    second = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(3):
        give_gradients([ours], step)
        theirs.grad = ours.grad.clone().reshape(theirs.shape)
        first.step()
        second.step()
    ours = ours.reshape(theirs.shape)
    if instructions:
        assert torch.equal(ours, theirs)
    else:
        assert not torch.equal(ours, theirs)
        assert (ours - theirs).norm() < 0.02 * (theirs - before).norm()


@pytest.mark.parametrize("name", ["first kernel", "low rank", "bias"])
def test_all_else_steps_as_with_adamw(name):
    ours, theirs = parameters()[name], parameters()[name]
    first = Muon([ours], lr=0.01, weight_decay=0.1)
    second = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(3):
        give_gradients([ours], step)
        give_gradients([theirs], step)
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs)


def test_steps_are_as_long_as_adamws():
    generator = torch.Generator().manual_seed(2)
    ours = nn.Parameter(torch.zeros(128, 128))
    theirs = nn.Parameter(torch.zeros(128, 128))
    first, second = Muon([ours], lr=1.0), torch.optim.AdamW([theirs], lr=1.0)
    for _ in range(200):
        ours.grad = torch.randn(128, 128, generator=generator)
        theirs.grad = ours.grad
        one, other = ours.detach().clone(), theirs.detach().clone()
        first.step()
        second.step()
    assert 0.5 < (ours - one).norm() / (theirs - other).norm() < 2


def test_it_goes_on_where_it_stopped():
    whole, stopped = list(parameters().values()), list(parameters().values())
    one, other = Muon(whole, lr=0.01), Muon(stopped, lr=0.01)
    for step in range(4):
        if step == 2:
            kept = read_optimizer(other)
            other = Muon(stopped, lr=0.01)
            write_optimizer(other, stopped, *kept)
        for trained, optimizer in ((whole, one), (stopped, other)):
            give_gradients(trained, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, stopped, strict=True))


def test_the_state_of_an_earlier_release_is_read():
    """It had the momentum of kernels in their own shape."""
    first, second = list(parameters().values()), list(parameters().values())
    one, other = Muon(first, lr=0.01), Muon(second, lr=0.01)
    give_gradients(first, 0)
    one.step()
    with torch.no_grad():
        for target, source in zip(second, first, strict=True):
            target.copy_(source)
    tensors, numbers = read_optimizer(one)
    tensors = {key: value.clone() for key, value in tensors.items()}
    tensors["1.momentum_buffer"] = tensors["1.momentum_buffer"].view(SHAPES["kernel"])
    write_optimizer(other, second, tensors, numbers)
    for trained, optimizer in ((first, one), (second, other)):
        give_gradients(trained, 1)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_parameter_without_a_gradient_stays():
    trained = list(parameters().values())
    before = [parameter.detach().clone() for parameter in trained]
    give_gradients(trained[:1], 0)
    Muon(trained, lr=0.01).step()
    changed = [not torch.equal(a, b) for a, b in zip(before, trained, strict=True)]
    assert changed == [True, False, False, False, False]


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="takes no closure"):
        Muon(parameters().values(), lr=0.01).step(lambda: 0.0)


STEPS = """
import sys
import torch
from safetensors.torch import load_file, save_file
from latent_shift.training.optim import Muon

processes, rank, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
meeting = f"file://{folder}/meeting-{processes}"
torch.distributed.init_process_group("gloo", init_method=meeting, world_size=processes, rank=rank)
tensors = load_file(f"{folder}/start.safetensors")
trained = torch.nn.ParameterDict({key: torch.nn.Parameter(tensors[key]) for key in sorted(tensors)})
optimizer = Muon(trained.values(), lr=0.01)
wrapped = torch.nn.parallel.DistributedDataParallel(trained)  # as accelerate does, after the optimizer
for step in range(3):
    generator = torch.Generator().manual_seed(step)
    for one in trained.values():
        one.grad = torch.randn(one.shape, generator=generator)
    optimizer.step()
torch.distributed.destroy_process_group()
save_file({key: one.detach() for key, one in trained.items()}, f"{folder}/{processes}-{rank}.safetensors")
"""


def test_processes_that_share_the_work_step_as_one_does(tmp_path):
    """Bit for bit; of three processes one has no matrix to work on."""
    save_file({name: one.detach() for name, one in parameters().items()}, tmp_path / "start.safetensors")
    for processes in (1, 3):
        started = [
            subprocess.Popen([sys.executable, "-c", STEPS, str(processes), str(rank), str(tmp_path)])
            for rank in range(processes)
        ]
        assert [one.wait(timeout=120) for one in started] == [0] * processes
    alone = load_file(tmp_path / "1-0.safetensors")
    for rank in range(3):
        shared = load_file(tmp_path / f"3-{rank}.safetensors")
        assert all(torch.equal(shared[key], alone[key]) for key in alone)
    start = load_file(tmp_path / "start.safetensors")
    assert not any(torch.equal(alone[key], start[key]) for key in alone)


@pytest.mark.parametrize("name", ["linear", "kernel", "bias"])
def test_parameters_step_whatever_memory_they_were_given_since(name):
    """DDP gives them other memory, and its processes trained no matrix while Muon stepped the old one."""
    moved, kept = parameters()[name], parameters()[name]
    first, second = Muon([moved], lr=0.01), Muon([kept], lr=0.01)
    moved.data = moved.detach().clone()
    for step in range(2):
        for one, optimizer in ((moved, first), (kept, second)):
            give_gradients([one], step)
            optimizer.step()
    assert torch.equal(moved, kept)
    assert not torch.equal(moved, parameters()[name])
