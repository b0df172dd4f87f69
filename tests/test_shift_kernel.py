"""The Triton kernel against the plain form: run by Triton's interpreter, and compiled for a GPU without one.

The interpreter cuts float32 to bfloat16 where a GPU rounds, so that bfloat16 is drawn from numbers of which
the sums are exact; `test_on_gpu.py` has the others.
"""

import importlib
import re
import sys

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from latent_shift import shift, temporal_shift
from latent_shift.shift import ShiftOptions, shifted_add
from test_shift import OPTIONS, draw, reference_shift

KERNEL = "latent_shift.shift_kernel"


@pytest.fixture
def interpreter(monkeypatch):
    """The kernel, taken from here on for tensors of the CPU, too."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read where the kernel is defined
    sys.modules.pop(KERNEL, None)
    shift._load_kernel.cache_clear()
    yield shift._load_kernel(torch.device("cpu"))
    sys.modules.pop(KERNEL, None)
    shift._load_kernel.cache_clear()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_all_options_and_their_gradients_bit_for_bit(interpreter, options):
    skip, branch = (
        draw(6, 10, 3, 2, seed=1, requires_grad=True),
        draw(6, 10, 3, 2, seed=2, requires_grad=True),
    )
    weight = draw(6, 10, 3, 2, seed=3)
    total = shifted_add(skip, branch, 3, **options)
    assert torch.equal(total, skip + reference_shift(branch, 3, **options))
    found = torch.autograd.grad((total * weight).sum(), (skip, branch))
    plain = (skip + reference_shift(branch, 3, **options)) * weight
    for gradient, expected in zip(found, torch.autograd.grad(plain.sum(), (skip, branch)), strict=True):
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_precision_and_memory_layout(interpreter, dtype, layout):
    skip, branch = (draw(4, 70, 5, 4, seed=seed) for seed in (1, 2))  # more than one tile in each layout
    if dtype == torch.bfloat16:
        skip, branch = (each.mul(20).round() for each in (skip, branch))
    skip, branch = skip.to(dtype).to(memory_format=layout), branch.to(dtype)
    total = shifted_add(skip, branch, 2)
    assert torch.equal(total, skip + reference_shift(branch, 2))
    assert total.dtype == dtype
    assert total.stride() == skip.stride()
    shifted = temporal_shift(skip, 2, padding="circular")
    assert torch.equal(shifted, reference_shift(skip, 2, padding="circular"))
    assert shifted.stride() == skip.stride()


def test_mixed_precisions_add_as_torch_does(interpreter):
    skip, branch = draw(2, 6, 2, 2), draw(2, 6, 2, 2, dtype=torch.bfloat16, seed=1)
    total = shifted_add(skip, branch, 2)
    assert total.dtype == torch.float32
    assert torch.equal(total, skip + reference_shift(branch, 2))


def test_the_kernel_takes_what_the_plain_form_would(interpreter, monkeypatch):
    calls = []
    monkeypatch.setattr(interpreter, "shift_frames", lambda *args, **options: calls.append(options))
    hidden = draw(4, 6, 2, 2)
    shifted_add(hidden, hidden, 2)
    temporal_shift(hidden, 2)
    assert [call["num_frames"] for call in calls] == [2, 2]
    assert torch.equal(temporal_shift(hidden.int(), 2), reference_shift(hidden.int(), 2))
    assert len(calls) == 2  # whole numbers are not the kernel's


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_compiles_for_a_gpu_with_wide_loads(layout, padding, transposed):
    shift_kernel = importlib.import_module(KERNEL)  # anew, where an interpreted one was
    last = layout == "channels last"
    names = shift_kernel._shift_kernel.arg_names
    constants = {
        "PADDING": padding, "CAUSAL": False, "TRANSPOSED": transposed, "ADD": not transposed,
        "COMPUTE": triton.language.float32, "ROWS": 16 if last else 1, "COLUMNS": 64 if last else 1024,
        "stride": 1, **({} if last else {"rows": 1}),
    }  # fmt: skip
    signature = {name: "constexpr" if name in constants else "i32" for name in names}
    signature |= dict.fromkeys(("out", "skip", "source"), "*bf16")
    # As Triton finds at run time: addresses, sizes and, where 3 divides the channels well, the bands' limits
    divisible = ("out", "skip", "source", "columns", "first_end", "last_start")
    source = ASTSource(
        fn=shift_kernel._shift_kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    reads = re.findall(r"ld\.global\S*", ptx)
    assert set(reads) == {"ld.global.v4.b32"}
    assert len(reads) == (1 + (padding == 1) if transposed else 2)
    assert re.findall(r"st\.global\S*", ptx) == ["st.global.v4.b32"]


def test_without_triton_the_plain_form_serves(monkeypatch):
    monkeypatch.setattr(shift, "find_spec", lambda name: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    shift._load_kernel.cache_clear()
    hidden = draw(4, 6, 2, 2)
    assert shift._kernel_for(hidden) is None
    assert torch.equal(temporal_shift(hidden, 2), reference_shift(hidden, 2))
    shift._load_kernel.cache_clear()


def test_a_triton_that_does_not_work_is_reported_once(interpreter, monkeypatch, recwarn):
    def broken(*args, **options):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(interpreter, "shift_frames", broken)
    shift._load_kernel.cache_clear()
    hidden = draw(4, 6, 2, 2)
    for _ in range(2):
        assert torch.equal(shifted_add(hidden, hidden, 2), hidden + reference_shift(hidden, 2))
    (warning,) = recwarn
    assert "Failed to find C compiler" in str(warning.message)
    monkeypatch.undo()


def test_strange_shapes(interpreter):
    for shape in ((2, 2, 3, 1), (2, 7, 1, 1), (2, 6, 0, 3)):  # no channel to shift, one pixel, none
        skip, branch = draw(*shape, seed=1), draw(*shape, seed=2)
        expected = skip + reference_shift(branch, 2)
        assert torch.equal(shifted_add(skip, branch, 2), expected)
    options = ShiftOptions(single_frame="shift")
    assert torch.equal(temporal_shift(skip, 1, options), reference_shift(skip, 1))
