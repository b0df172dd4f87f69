"""The shift against its plain reference: a loop over frames that copies one frame's channels at a time."""

import itertools
import re

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch._inductor.utils import run_and_get_code

from latent_shift import temporal_shift
from latent_shift.documents import validation_error
from latent_shift.shift import CHOICES, ShiftOptions, shifted_add

OPTIONS = [
    {"padding": padding, "direction": direction, "fold": fold, "stride": stride}
    for padding, direction, (fold, stride) in itertools.product(
        CHOICES["padding"], CHOICES["direction"], ((3, 1), (8, 1), (3, 2), (3, 5))
    )
]


def reference_shift(hidden, num_frames, *, padding="zeros", direction="both", fold=3, stride=1):
    """The definition: channel band by band, frame by frame, out of place."""
    k = hidden.shape[1] // fold
    first, last = slice(0, k), slice(hidden.shape[1] - k, hidden.shape[1])
    shifted = hidden.clone()
    for clip in range(0, len(hidden), num_frames):
        for frame in range(num_frames):
            for band, sign in ((first, -1), (last, 1 if direction == "both" else -1)):
                shifted[clip + frame, band] = neighbour(
                    hidden[clip : clip + num_frames], frame, sign * stride, padding
                )[band]
    return shifted


def neighbour(clip, frame, offset, padding):
    source = frame + offset
    if 0 <= source < len(clip):
        return clip[source]
    if padding == "zeros":
        return torch.zeros_like(clip[frame])
    return clip[frame] if padding == "replicate" else clip[source % len(clip)]


def draw(*shape, dtype=torch.float32, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
    )


def test_the_definition_by_hand():
    hidden = torch.arange(1.0, 10.0).reshape(3, 3, 1, 1)  # three frames of three channels: 123, 456, 789
    shifted = temporal_shift(hidden, 3).flatten(1)
    assert shifted.tolist() == [[0, 2, 6], [1, 5, 9], [4, 8, 0]]


def test_the_remainder_of_the_channels_stays():
    hidden = draw(4, 11, 2, 2)
    assert torch.equal(temporal_shift(hidden, 4)[:, 3:8], hidden[:, 3:8])
    assert torch.equal(temporal_shift(hidden[:, :2], 4), hidden[:, :2])  # 2 // 3 channels: nothing to shift


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 6])
def test_equals_the_reference_bit_for_bit(num_frames, options):
    skip, branch = draw(6, 10, 3, 2, seed=1), draw(6, 10, 3, 2, seed=2)
    expected = reference_shift(branch, num_frames, **options)
    assert torch.equal(temporal_shift(branch, num_frames, **options, single_frame="shift"), expected)
    assert torch.equal(
        shifted_add(skip, branch, num_frames, **options, single_frame="shift"), skip + expected
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_gradients_equal_those_of_the_reference(num_frames, options):
    skip = draw(4, 7, 2, 1, dtype=torch.float64, seed=1, requires_grad=True)
    branch = draw(4, 7, 2, 1, dtype=torch.float64, seed=2, requires_grad=True)
    weight = draw(4, 7, 2, 1, dtype=torch.float64, seed=3)
    total = shifted_add(skip, branch, num_frames, **options, single_frame="shift")
    expected = skip + reference_shift(branch, num_frames, **options)
    for got, wanted in zip(
        torch.autograd.grad((total * weight).sum(), (skip, branch)),
        torch.autograd.grad((expected * weight).sum(), (skip, branch)),
        strict=True,
    ):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("options", OPTIONS[::2], ids=str)
def test_gradcheck_to_the_second_order(options):
    skip = draw(3, 4, 1, 2, dtype=torch.float64, seed=1, requires_grad=True)
    branch = draw(3, 4, 1, 2, dtype=torch.float64, seed=2, requires_grad=True)

    def add(skip, branch):
        return shifted_add(skip, branch, 3, **options)

    def shift(branch):
        return temporal_shift(branch, 3, **options)

    assert torch.autograd.gradcheck(add, (skip, branch))
    assert torch.autograd.gradcheck(shift, (branch,))
    assert torch.autograd.gradgradcheck(add, (skip, branch))
    assert torch.autograd.gradgradcheck(shift, (branch,))


@pytest.mark.parametrize("wanted", ["skip", "branch"])
def test_a_gradient_on_one_side_only(wanted):
    tensors = {"skip": draw(4, 6, 2, 2), "branch": draw(4, 6, 2, 2, seed=1)}
    tensors[wanted].requires_grad_()
    shifted_add(tensors["skip"], tensors["branch"], 2).sum().backward()
    expected = torch.ones(4, 6, 2, 2)
    if wanted == "branch":  # the values that the shift drops have no say in the sum
        expected[1::2, :2], expected[0::2, 4:] = 0, 0
    assert torch.equal(tensors[wanted].grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_precision_and_memory_layout(dtype, layout):
    skip = draw(4, 9, 4, 4, dtype=dtype, seed=1).to(memory_format=layout)
    branch = draw(4, 9, 4, 4, dtype=dtype, seed=2).requires_grad_()  # the layouts may differ
    total = shifted_add(skip, branch, 2)
    assert torch.equal(total, skip + reference_shift(branch, 2))
    assert total.is_contiguous(memory_format=layout)
    assert total.dtype == dtype
    total.sum().backward()
    assert branch.grad.dtype == dtype
    assert temporal_shift(skip, 2).is_contiguous(memory_format=layout)


def test_mixed_precisions_add_as_torch_does():
    skip, branch = draw(2, 6, 2, 2), draw(2, 6, 2, 2, dtype=torch.bfloat16, seed=1).requires_grad_()
    total = shifted_add(skip, branch, 2)
    assert total.dtype == torch.float32
    assert torch.equal(total, skip + reference_shift(branch, 2))
    total.sum().backward()
    assert branch.grad.dtype == torch.bfloat16


def test_inputs_are_left_alone():
    skip, branch = draw(4, 6, 2, 2), draw(4, 6, 2, 2, seed=1)
    before = skip.clone(), branch.clone()
    shifted_add(skip, branch, 4)
    temporal_shift(branch, 4)
    assert torch.equal(skip, before[0])
    assert torch.equal(branch, before[1])


def test_one_frame_passes_unless_told_otherwise():
    hidden = draw(3, 6, 2, 2)
    assert temporal_shift(hidden, 1) is hidden
    assert torch.equal(shifted_add(hidden, hidden, 1), hidden + hidden)
    literal = temporal_shift(hidden, 1, single_frame="shift")
    assert torch.equal(literal[:, 2:4], hidden[:, 2:4])
    assert not literal[:, [0, 1, 4, 5]].any()


def test_a_still_clip_passes_under_replicate_and_circular():
    still = draw(1, 6, 2, 2).repeat(4, 1, 1, 1)
    for padding in ("replicate", "circular"):
        assert torch.equal(temporal_shift(still, 4, padding=padding), still)


def test_clips_of_one_batch_do_not_leak():
    hidden = draw(8, 6, 2, 2)
    for options in OPTIONS:
        together = temporal_shift(hidden, 4, **options)
        apart = torch.cat([temporal_shift(clip, 4, **options) for clip in hidden.split(4)])
        assert torch.equal(together, apart)


def test_causal_frames_never_see_the_future():
    hidden = draw(4, 6, 2, 2, requires_grad=True)
    shifted = temporal_shift(hidden, 4, direction="causal")
    (gradient,) = torch.autograd.grad(shifted[1].sum(), hidden)
    assert gradient[:2].any()
    assert not gradient[2:].any()


@pytest.mark.parametrize("options", OPTIONS[::2], ids=str)
def test_compiled_without_a_break(options):
    torch.compiler.reset()  # each option would otherwise count as another compilation of one function
    skip, branch = draw(4, 9, 2, 2, seed=1), draw(4, 9, 2, 2, seed=2, requires_grad=True)

    def add(skip, branch):
        return shifted_add(skip, branch, 4, **options)

    total = torch.compile(add, fullgraph=True, backend="aot_eager")(skip, branch)
    assert torch.equal(total, skip + reference_shift(branch, 4, **options))
    (gradient,) = torch.autograd.grad((total * skip).sum(), branch)
    (expected,) = torch.autograd.grad((add(skip, branch) * skip).sum(), branch)
    assert torch.equal(gradient, expected)


@pytest.mark.long
@pytest.mark.slow
@torch._inductor.config.patch(force_disable_caches=True)  # a kernel of an earlier run shows no code
def test_compiled_by_inductor():
    """One kernel forward and one backward, neighbouring operations in it."""
    skip, branch = draw(4, 9, 2, 2, seed=1), draw(4, 9, 2, 2, seed=2, requires_grad=True)
    compiled = torch.compile(lambda skip, branch: shifted_add(skip, branch.sin(), 4), fullgraph=True)
    total, forward = run_and_get_code(compiled, skip, branch)
    assert torch.allclose(total, skip + reference_shift(branch.sin(), 4))
    _, backward = run_and_get_code(total.sum().backward)
    for code in (forward[0], backward[0]):
        assert len(set(re.findall(r"cpp_fused\w+", code))) == 1
        assert "extern_kernels." not in code
    compiled = torch.compile(lambda skip, branch: shifted_add(skip, branch, 4), fullgraph=True)
    assert torch.equal(compiled(skip, branch), skip + reference_shift(branch, 4))


def test_nothing_of_full_size_beside_the_result():
    """The saved tensors of the graph hold nothing, and forward and backward each allocate one tensor."""
    skip, branch = draw(8, 30, 16, 16, requires_grad=True), draw(8, 30, 16, 16, seed=1, requires_grad=True)
    size = skip.numel() * skip.element_size()
    with torch.profiler.profile(profile_memory=True) as profile:
        total = shifted_add(skip, branch, 8)
    assert size <= allocated(profile) < 1.1 * size
    gradient = torch.ones_like(total)
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(total, branch, gradient)
    assert size <= allocated(profile) < 1.1 * size


def allocated(profile):
    return sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())


@pytest.mark.parametrize(
    ("shape", "num_frames", "options", "message"),
    [
        ((6, 3, 2, 2), 0, {}, "num_frames=0"),
        ((6, 3, 2, 2), -4, {}, "num_frames=-4"),
        ((6, 3, 2, 2), 2.0, {}, "num_frames=2.0"),
        ((6, 3, 2, 2), 4, {}, "6 is no whole number of clips of 4 frames.*enable_temporal_shift"),
        ((6, 3, 2), 2, {}, "channels, height, width"),
        ((6, 3, 2, 2), 2, {"padding": "reflect"}, "reflect.*zeros, replicate, circular"),
        ((6, 3, 2, 2), 2, {"direction": "left"}, "left.*both, causal"),
        ((6, 3, 2, 2), 2, {"fold": 1}, "fold=1"),
        ((6, 3, 2, 2), 2, {"fold": 2.5}, "fold=2.5"),
        ((6, 3, 2, 2), 2, {"single_frame": "drop"}, "drop.*bypass, shift"),
        ((6, 3, 2, 2), 2, {"stride": 0}, "stride=0"),
        ((6, 3, 2, 2), 2, {"stride": 1.5}, "stride=1.5"),
    ],
)
def test_mistakes_are_named(shape, num_frames, options, message):
    hidden = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        temporal_shift(hidden, num_frames, **options)
    with pytest.raises(ValueError, match=message):
        shifted_add(hidden, hidden, num_frames, **options)


def test_skip_and_branch_must_fit():
    with pytest.raises(ValueError, match="one shape"):
        shifted_add(torch.zeros(4, 3, 2, 2), torch.zeros(4, 6, 2, 2), 2)


def test_options_are_checked():
    assert ShiftOptions() == ShiftOptions("output", "zeros", "both", 3, "bypass", (1,))
    with pytest.raises(ValueError, match="middle.*output, input"):
        ShiftOptions(place="middle")
    with pytest.raises(ValueError, match="fold=0"):
        ShiftOptions(fold=0)
    with pytest.raises(ValueError, match="stride=-1"):
        ShiftOptions(strides=(3, -1))
    for strides in ((), [1], 3):
        with pytest.raises(ValueError, match="at least one number of frames"):
            ShiftOptions(strides=strides)


def test_changes_are_laid_over_the_options():
    hidden, options = draw(4, 6, 2, 2), ShiftOptions(padding="circular", fold=2)
    expected = temporal_shift(hidden, 4, padding="circular", fold=2, direction="causal")
    assert torch.equal(temporal_shift(hidden, 4, options, direction="causal"), expected)
    assert torch.equal(shifted_add(hidden, hidden, 4, options, direction="causal"), hidden + expected)
    with pytest.raises(TypeError, match="paddings"):
        temporal_shift(hidden, 4, paddings="circular")
    for change in ({"place": "input"}, {"strides": (3,)}):
        with pytest.raises(ValueError, match="is for whole networks; of one tensor give the stride"):
            temporal_shift(hidden, 4, **change)


def test_a_file_with_an_unknown_option_is_refused():
    read = TypeAdapter(ShiftOptions).validate_python
    assert read({"place": "input", "strides": [3, 1]}) == ShiftOptions("input", strides=(3, 1))
    for mapping, message in (
        ({"plce": "input"}, "plce: unknown key"),
        ({"place": "middle"}, "place='middle' is unknown: choose one of output, input"),
        ({"strides": [3, 0]}, "stride=0"),
    ):
        with pytest.raises(ValidationError) as raised:
            read(mapping)
        assert message in validation_error(raised.value)
