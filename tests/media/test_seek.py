"""A few frames of a clip, by their times: the very frames that reading all of it gives, whatever the file."""

import random

import av
import numpy as np
import pytest
from PIL import Image

from clips import REAL, needs_real_clips, numbers, write_video
from latent_shift import media

# One of each container and codec, with sound and without, reordered frames, pixels that are not square.
SOME_CLIPS = [
    "real_clips/bigbuckbunny.mp4",
    "real_clips/carphone_pristine.mp4",
    "real_clips/flipping_a_pancake.mkv",
    "real_clips/asl/again.mkv",
    "real_clips/ucf101/v_PlayingGuitar_g06_c01.avi",
    "real_clips/v2v-skateboard-dog.avi",
    "real_clips/v2v-brown-bear.mp4",
]


def read(file, times):
    with media.open_clip(file) as clip:
        return clip.frames(times)


def test_the_frames_nearest_to_the_times(tmp_path):
    file = write_video(tmp_path / "clip.mp4", count=24, fps=8)
    assert numbers(read(file, [0.0, 0.06, 0.07, 1.0, 1.0])) == [0, 0, 1, 8, 8]
    assert numbers(read(file, [2.5, 2.8, 2.92])) == [20, 22, 23]


def test_only_what_is_needed_is_decoded(tmp_path):
    file = write_video(tmp_path / "clip.mp4", count=33, fps=8, gop=6)
    decoded = []
    with media.open_clip(file) as clip:
        frames_from = clip._from
        clip._from = lambda time: (decoded.append(pair[0]) or pair for pair in frames_from(time))
        clip.frames([2.0, 2.25])
    assert decoded == [1.5, 1.625, 1.75, 1.875, 2.0, 2.125, 2.25]  # from the keyframe, frame 12


def test_a_time_beyond_the_end_is_an_error_that_names_the_file(tmp_path):
    file = write_video(tmp_path / "clip.mp4", count=16, fps=8)
    assert numbers(read(file, [1.9])) == [15]
    with pytest.raises(ValueError, match=r"clip\.mp4: .*ends before 2\.00 s; its last frame is at 1\.88 s"):
        read(file, [1.5, 2.0])
    for times in ([], [1.0, 0.5], [-1.0]):
        with pytest.raises(ValueError, match="must rise from 0"):
            read(file, times)


def test_the_facts_of_a_clip_and_of_an_image(tmp_path):
    facts = media.probe(write_video(tmp_path / "clip.mp4", count=24, fps=8, size=(48, 64)))
    assert facts == media.Facts("clip", 64, 48, 3.0, 8.0, 24, "h264")
    assert facts.last_time == 2.875
    Image.new("RGB", (30, 20)).save(tmp_path / "image.jpg")
    assert media.probe(tmp_path / "image.jpg") == media.Facts("image", 30, 20, 0.0, 1.0, 1, "picture")
    assert read(tmp_path / "image.jpg", [0.0]).shape == (1, 20, 30, 3)


def test_variable_frame_rates_go_by_the_clock(tmp_path):
    times = [0.0, 0.1, 0.2, 1.2, 1.3, 2.0, 2.05, 3.5]
    file = write_video(tmp_path / "clip.mp4", count=8, times=times, gop=3)
    assert numbers(read(file, [0.0, 0.5, 0.9, 1.28, 2.04, 3.4])) == [0, 2, 3, 4, 6, 7]
    assert media.probe(file).fps < 4


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotated_videos_stand_upright(tmp_path, degrees):
    file = write_half_white(tmp_path / "clip.mp4", lambda stream: stream.set_display_rotation(degrees))
    with av.open(str(file)) as container:
        frame = next(container.decode(video=0))
        upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    frames = read(file, [0.0])
    np.testing.assert_array_equal(frames[0], upright)
    facts = media.probe(file)
    assert (facts.height, facts.width) == upright.shape[:2] == ((48, 64) if degrees % 180 == 0 else (64, 48))


def test_mirrored_videos_are_mirrored_back(tmp_path):
    mirror = (-1, 0, 0, 0, 1, 0, 0, 0, 1)
    plain = read(write_half_white(tmp_path / "plain.mp4", lambda stream: None), [0.0])
    matrix = [round(value * (1 << (30 if place == 8 else 16))) for place, value in enumerate(mirror)]
    turned = read(
        write_half_white(tmp_path / "turned.mp4", lambda stream: stream.set_display_matrix(matrix)), [0.0]
    )
    np.testing.assert_array_equal(turned, plain[:, :, ::-1])


def write_half_white(path, edit):
    """A frame whose corner alone is white, so that every turn and mirroring differs."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        edit(stream)
        image = np.zeros((48, 64, 3), np.uint8)
        image[:16, :32] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "size", "codec", "pixels"),
    [
        ("deep.mp4", (48, 64), "libx264", "yuv420p10le"),
        ("deep.mkv", (48, 64), "libx265", "yuv420p10le"),
        ("odd.mkv", (15, 33), "ffv1", "yuv444p"),
        ("odd.mp4", (31, 17), "libx264", "yuv444p"),
        ("vp9.webm", (48, 64), "libvpx-vp9", "yuv420p"),
        ("old.mpg", (48, 64), "mpeg2video", "yuv420p"),
        ("stream.ts", (48, 64), "libx264", "yuv420p"),
    ],
)
def test_ten_bits_odd_sizes_and_other_containers(tmp_path, name, size, codec, pixels):
    fps = 25 if codec == "mpeg2video" else 8
    file = write_video(tmp_path / name, count=20, fps=fps, size=size, codec=codec, pixels=pixels)
    frames = read(file, [place / fps for place in (0, 7, 16)])
    assert frames.shape == (3, *size, 3)
    assert numbers(frames) == [0, 7, 16]


def test_pixels_that_are_not_square_are_widened(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = 2

    file = write_video(tmp_path / "clip.mkv", size=(48, 64), edit=wide)
    assert read(file, [0.0]).shape == (1, 48, 128, 3)
    assert media.probe(file).width == 128


def test_moving_pictures_are_clips(tmp_path):
    frames = np.stack([np.full((8, 10, 3), 12 + 7 * number, np.uint8) for number in range(10)])
    file = media.write_clip(tmp_path / "clip.gif", frames, fps=10)
    assert (media.probe(file).kind, media.probe(file).duration) == ("clip", 1.0)
    assert numbers(read(file, [0.0, 0.52, 0.9])) == [0, 5, 9]
    with pytest.raises(ValueError, match="ends before"):
        read(file, [1.0])


def test_images_are_upright_on_white_and_16_bits_deep(tmp_path):
    image = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert media.probe(tmp_path / "turned.jpg").height == 20
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read(tmp_path / "clear.png", [0.0]).min() == 255
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert set(read(tmp_path / "deep.png", [0.0]).ravel()) == {128}


def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path):
    file = write_video(tmp_path / "clip.mp4")
    wrong = file.rename(tmp_path / "clip.jpg")
    assert media.probe(wrong).kind == "clip"
    held = media.HeldFile("a.tar/000.mp4", wrong.read_bytes())
    assert numbers(read(held, [1.0])) == [8]
    for name, data in (("empty.mp4", b""), ("text.mp4", b"a dog runs" * 99)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            media.probe(tmp_path / name)


@needs_real_clips
@pytest.mark.parametrize("name", SOME_CLIPS)
def test_real_clips_give_the_frames_that_reading_all_of_them_gives(name):
    with av.open(str(REAL / name)) as container:
        stream = container.streams.video[0]
        everything = [(frame.time, frame.to_ndarray(format="gray8")) for frame in container.decode(stream)]
        rate = float(stream.average_rate)
    times = np.array([time for time, _ in everything]) - everything[0][0]
    if name.endswith("skateboard-dog.avi"):  # holds no times, and its frames are reordered
        times = np.arange(len(times)) / rate
    facts = media.probe(REAL / name)
    assert facts.last_time == pytest.approx(times[-1], abs=0.5 / rate)
    draw = random.Random(0)
    starts = [0.0, times[-1], *(draw.uniform(0, times[-1]) for _ in range(2))]
    for start in starts:
        wanted = [start + later for later in (0, 0.06, 0.4) if start + later <= times[-1]]
        with media.open_clip(REAL / name) as clip:
            clip._pixels = lambda frame: frame.to_ndarray(format="gray8")[..., None]
            found = clip.frames(wanted)
        for time, frame in zip(wanted, found, strict=True):
            nearest = int(np.argmin(np.abs(times - time)))
            np.testing.assert_array_equal(frame[..., 0], everything[nearest][1])


def damaged(data, draw):
    """Ten cuts of a file, and ten copies with bytes changed."""
    yield from (data[: draw.randrange(len(data))] for _ in range(10))
    for _ in range(10):
        flipped = bytearray(data)
        for _ in range(draw.choice((1, 10, 100))):
            flipped[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        yield bytes(flipped)


@needs_real_clips
@pytest.mark.parametrize("name", ["real_clips/fz-duck_rubber.mp4", "real_clips/asl/no.mkv"])
def test_damaged_real_clips_give_frames_or_a_value_error_that_names_them(name):
    outcomes = [read_damaged(data, name) for data in damaged((REAL / name).read_bytes(), random.Random(0))]
    assert {True, False} <= set(outcomes)


def read_damaged(data, name):
    """Whether frames came; a ValueError must name the file, anything else is a failure."""
    try:
        with media.open_clip(media.HeldFile(name, data)) as clip:
            last = min(clip.facts.last_time, 60.0)
            frames = clip.frames([0.0, last / 2, last])
    except ValueError as error:
        assert name in str(error)  # noqa: PT017
        return False
    assert frames.dtype == np.uint8
    assert frames.ndim == 4
    return True
