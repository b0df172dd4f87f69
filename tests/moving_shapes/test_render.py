"""The pixels: the same everywhere, and showing what the scene says."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from latent_shift.moving_shapes import Object, Scene, constants, draw_scenes, render
from latent_shift.moving_shapes.scene import frame_times, trajectory
from latent_shift.moving_shapes.shapes import area, glyph_indices, reach

HASHES = {
    1: "98e7be04077990f64c4b21e2d969fef965507ae58bd78a9c9d59cb8b7034e51c",
    2: "f73ef42bc8856790fd480fb385aa4b4a70774f821bfe22fe2a5d7b229eafefd0",
}
POSITIONS = (np.arange(64) + 0.5) / 32 - 1


def an_object(**changes: object) -> Object:
    obj = Object("white", "triangle", "standing still", "", "", 0.25, 0.0, 0.0, 0.0, 0.0, 3, -1)
    return replace(obj, **changes)


def coverage(scene: Scene, size: int = 64) -> np.ndarray:
    """Share of each pixel that a scene's only object covers: (F, S, S)."""
    ground = np.array(constants.BACKGROUNDS[scene.background], dtype=float)
    colour = np.array(constants.COLOURS[scene.objects[0].colour], dtype=float)
    channel = np.abs(colour - ground).argmax()
    frames = render([scene], size=size)[0, ..., channel]
    return (frames - ground[channel]) / (colour - ground)[channel]


def centroids(cover: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight = cover.sum(axis=(1, 2))
    return (cover.sum(axis=1) @ POSITIONS) / weight, (cover.sum(axis=2) @ POSITIONS) / weight


def turned(cover: np.ndarray, order: int) -> np.ndarray:
    """Clockwise turn since the first frame, in turns, of a shape that repeats `order` times: (F,)."""
    x, y = centroids(cover)
    across = POSITIONS[None, None, :] - x[:, None, None] + 1j * (POSITIONS[None, :, None] - y[:, None, None])
    phases = np.angle((cover * across**order).sum(axis=(1, 2)))
    return (np.unwrap(phases) - phases[0]) / order / (2 * np.pi)


@pytest.mark.parametrize("level", [1, 2])
def test_bytes_are_the_same_on_every_machine(level: int) -> None:
    frames = render(draw_scenes(2024, range(64), level=level, split="any"))
    assert frames.shape == (64, 16, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert hashlib.sha256(frames.tobytes()).hexdigest() == HASHES[level]


@pytest.mark.parametrize("level", [1, 2])
def test_batch_single_and_chosen_frames_agree(level: int) -> None:
    scenes = draw_scenes(3, range(40), level=level)
    clips = render(scenes)
    for scene, clip in zip(scenes, clips, strict=True):
        assert np.array_equal(render([scene])[0], clip)
    assert np.array_equal(render(scenes, [7]), clips[:, 7:8])
    assert np.array_equal(render(scenes, [15, 0, 3]), clips[:, [15, 0, 3]])


def test_threads_do_not_disturb_each_other() -> None:
    scenes = draw_scenes(4, range(40), level=2)
    with ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(lambda scene: render([scene])[0], scenes))
    assert np.array_equal(np.stack(clips), render(scenes))


def test_no_scenes_give_an_empty_batch() -> None:
    assert render([]).shape == (0, 16, 64, 64, 3)


@pytest.mark.parametrize(("frames", "size"), [([16], 64), ([-1], 64), (None, 0), (None, 30)])
def test_impossible_frames_and_sizes_are_refused(frames: list[int] | None, size: int) -> None:
    with pytest.raises(ValueError, match="must"):
        render([], frames, size)


def test_patches_cut_nothing_off() -> None:
    """A shape drawn in its patch equals the same shape drawn over the whole frame."""
    for shape in constants.SHAPES:
        glyphs = (
            glyph_indices()[constants.DIGITS.index(shape)][0][::12] if constants.is_digit(shape) else (-1,)
        )
        for glyph in glyphs:
            cover = coverage(Scene("black", (an_object(shape=shape, glyph=glyph, radius=0.5),)), size=96)[0]
            y, x = np.mgrid[:96, :96]
            distance = np.hypot((x + 0.5) / 48 - 1, (y + 0.5) / 48 - 1)
            assert distance[cover > 0.5].max() <= 0.5 * reach(shape)
            covered = cover.sum() / 48**2 / 0.5**2
            assert covered >= area(shape) * 0.98


@pytest.mark.parametrize("shape", constants.DRAWN_SHAPES)
def test_drawn_shapes_lie_on_their_centre_with_their_area(shape: str) -> None:
    cover = coverage(Scene("navy", (an_object(shape=shape, x=0.1, y=-0.2),)))
    x, y = centroids(cover)
    assert abs(x[0] - 0.1) < 0.01
    assert abs(y[0] + 0.2) < 0.01
    assert cover[0].sum() / 32**2 == pytest.approx(area(shape) * 0.25**2, rel=0.03)


def test_small_shapes_differ_clearly() -> None:
    covers = [coverage(Scene("navy", (an_object(shape=s, radius=0.14),)))[0] for s in constants.DRAWN_SHAPES]
    for i, one in enumerate(covers):
        for other in covers[:i]:
            assert np.abs(one - other).sum() > 10  # pixels, of 30 to 65


def test_the_second_object_lies_on_top() -> None:
    objects = (an_object(shape="square", colour="red"), an_object(shape="circle", colour="blue", radius=0.1))
    assert tuple(render([Scene("black", objects)], [0])[0, 0, 32, 32]) == constants.COLOURS["blue"]


@pytest.mark.slow
def test_never_more_than_a_fifth_is_hidden() -> None:
    worst = 0.0
    for scene in draw_scenes(8, range(400), level=2, num_objects=2):
        under, over = (coverage(Scene(scene.background, (obj,))) for obj in scene.objects)
        hidden = (under * over).sum(axis=(1, 2)) / under.sum(axis=(1, 2))
        worst = max(worst, hidden.max())
        assert hidden.max() <= 0.2
    assert worst > 0.02  # the rule is not kept by never overlapping


def drawn(
    motion: str, level: int, shapes: tuple[str, ...] = constants.DRAWN_SHAPES
) -> list[tuple[Object, np.ndarray]]:
    """The object and its coverage of the scenes of one motion among a few hundred."""
    scenes = draw_scenes(21, range(900), level=level, num_objects=1, split="any")
    chosen = [s for s in scenes if s.objects[0].motion == motion and s.objects[0].shape in shapes]
    return [(scene.objects[0], coverage(scene)) for scene in chosen[:15]]


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("motion", constants.DIRECTIONS)
def test_travels_go_their_way(motion: str, level: int) -> None:
    way = constants.DIRECTIONS[motion]
    low, high = (0.8, 1.1) if 0 in way else (0.6, 0.9)
    for obj, cover in drawn(motion, level):
        x, y = centroids(cover)
        speed = {"": 1.0, "slowly": 0.5, "quickly": 1.5}[obj.speed_word]
        part = 5 if obj.speed_word == "quickly" else 15  # later it may be cut by the frame's edge
        for moved, sign in ((x[part] - x[0], way[0]), (y[part] - y[0], way[1])):
            travel = moved * 15 / part
            if sign == 0:
                assert abs(travel) < 0.02
            else:
                assert low * speed - 0.03 < sign * travel < high * speed + 0.03


def test_only_quick_travels_leave_the_frame() -> None:
    times, left = frame_times(np.arange(16)), 0
    for scene in draw_scenes(22, range(2000), level=2, num_objects=1):
        (obj,) = scene.objects
        path = trajectory(obj, times)
        outside = np.maximum(np.abs(path.x), np.abs(path.y)) + path.radius * reach(obj.shape) > 1.001
        if obj.speed_word == "quickly":
            left += int(outside.any())
            assert not outside[0]
        elif obj.motion != "bouncing":  # its floor is fixed
            assert not outside.any()
    assert left > 0


def test_bouncing() -> None:
    for obj, cover in drawn("bouncing", 1, ("circle", "ring")):
        x, y = centroids(cover)
        assert np.ptp(x) < 0.02
        assert y.max() < 0.62
        assert 0.6 - obj.amplitude - 0.02 < y.min() < 0.6 - 0.5
        falls = (np.diff(y) > 0).astype(int)
        assert 2 <= (np.diff(falls) == -1).sum() + (falls[-1] == 1) + (falls[0] == 0) <= 5
        assert 0.6 <= obj.amplitude <= 1.0


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize(("motion", "sign"), [("circling clockwise", 1), ("circling counterclockwise", -1)])
def test_circling(motion: str, sign: int, level: int) -> None:
    for obj, cover in drawn(motion, level):
        x, y = centroids(cover)
        assert np.allclose(np.hypot(x, y), obj.amplitude, atol=0.02)
        assert 0.3 <= obj.amplitude <= 0.45
        angle = np.unwrap(np.arctan2(y, x))  # y points down: growing angles are clockwise on the screen
        turns = {"": 1.0, "slowly": 0.5, "quickly": 1.5}[obj.speed_word]
        assert (angle[-1] - angle[0]) / (2 * np.pi) == pytest.approx(sign * turns, abs=0.03)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize(("motion", "sign"), [("spinning clockwise", 1), ("spinning counterclockwise", -1)])
def test_spinning(motion: str, sign: int, level: int) -> None:
    for obj, cover in drawn(motion, level):
        x, y = centroids(cover)
        assert np.ptp(x) < 0.02
        assert np.ptp(y) < 0.02
        turns = turned(cover, constants.SYMMETRY.get(obj.shape, 3))[-1]
        speed = {"": 1.0, "slowly": 0.5, "quickly": 1.5}[obj.speed_word]
        assert 0.75 * speed - 0.03 < sign * turns < 1.25 * speed + 0.03


def test_only_spinning_turns() -> None:
    for motion in set(constants.MOTIONS) - set(constants.SPINNING):
        for _, cover in drawn(motion, 1, ("triangle",)):
            assert np.abs(turned(cover, 3)).max() < 0.01


@pytest.mark.parametrize(("motion", "first", "last"), [("growing", 0.5, 1.7), ("shrinking", 1.7, 0.5)])
def test_growing_and_shrinking(motion: str, first: float, last: float) -> None:
    for obj, cover in drawn(motion, 1):
        radius = np.sqrt(cover.sum(axis=(1, 2)) / 32**2 / area(obj.shape))
        assert radius[0] == pytest.approx(first * obj.radius, rel=0.05)
        assert radius[-1] == pytest.approx(last * obj.radius, rel=0.05)
        assert 0.2 <= obj.radius <= 0.28


def test_swinging() -> None:
    for obj, cover in drawn("swinging from side to side", 1):
        x, y = centroids(cover)
        t = np.arange(16) / 15
        assert np.allclose(x, obj.amplitude * np.sin(2 * np.pi * (1.5 * t + obj.phase)), atol=0.02)
        assert 0.35 <= obj.amplitude <= 0.5
        assert np.ptp(y) < 0.02


def test_standing_still() -> None:
    for _, cover in drawn("standing still", 1):
        assert (cover == cover[:1]).all()
