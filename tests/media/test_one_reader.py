"""Strange clips look the same whichever way they are read: upright, square pixels, on white, in SDR."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from clips import numbers, write_video
from latent_shift import media
from latent_shift.media.pixels import to_sdr

FPS = 8


def wide(stream):
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)


def turned(stream):
    stream.set_display_rotation(90)


def mirrored(stream):
    stream.set_display_rotation(0, hflip=True)


def turned_and_wide(stream):
    turned(stream)
    wide(stream)


def write_see_through(path, codec, pixels):
    """A red film of which the right half can be seen through."""
    image = np.zeros((48, 64, 4), np.uint8)
    image[..., 0] = 200
    image[:, :32, 3] = 255
    return write_rgb(path, [image] * 8, codec, pixels, "rgba")


def write_rgb(path, images, codec, pixels, layout="rgb24", edit=lambda stream: None, **colours):
    """Images as a film. colours: numbers of its transfer, primaries and matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pixels
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        edit(stream)
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format=layout)
            if colours:
                frame = frame.reformat(
                    format=pixels, dst_colorspace=Colorspace.BT2020, dst_color_range=ColorRange.MPEG
                )
                frame.color_trc, frame.color_primaries = colours["color_trc"], colours["color_primaries"]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_hdr(path, transfer, code):
    """A gray film of one code (0 to 1) of an HDR curve."""
    image = np.full((48, 64, 3), round(code * 65535), np.uint16)
    tags = {"color_trc": transfer, "color_primaries": ColorPrimaries.BT2020, "colorspace": Colorspace.BT2020}
    return write_rgb(path, [image] * 4, "ffv1", "yuv420p10le", "rgb48le", **tags)


def write_two(path, streams, fps=FPS):
    """A film of several streams: (height, width, brightness, disposition) each."""
    with av.open(str(path), "w") as container:
        added = []
        for height, width, level, disposition in streams:
            stream = container.add_stream(
                "mjpeg" if disposition is Disposition.attached_pic else "libx264", fps
            )
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if disposition is Disposition.attached_pic else "yuv420p"
            stream.disposition = disposition
            added.append((stream, np.full((height, width, 3), level, np.uint8), disposition))
        for stream, image, disposition in added:
            for number in range(1 if disposition is Disposition.attached_pic else 8):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


DEFAULT, NONE, COVER = Disposition.default, Disposition(0), Disposition.attached_pic
CLIPS = {
    "square.mp4": write_video,
    "wide.mp4": lambda path: write_video(path, edit=wide),
    "wide.mkv": lambda path: write_video(path, edit=wide),
    "turned.mp4": lambda path: write_video(path, edit=turned),
    "mirrored.mp4": lambda path: write_video(path, edit=mirrored),
    "turned and wide.mp4": lambda path: write_video(path, edit=turned_and_wide),
    "half.mov": lambda path: write_see_through(path, "qtrle", "argb"),
    "half png.mov": lambda path: write_see_through(path, "png", "rgba"),
    "half.webm": lambda path: write_see_through(path, "libvpx-vp9", "yuva420p"),
    "half.mkv": lambda path: write_see_through(path, "ffv1", "yuva420p"),
    "hlg.mkv": lambda path: write_hdr(path, ColorTrc.ARIB_STD_B67, 0.5),
    "pq.mkv": lambda path: write_hdr(path, ColorTrc.SMPTE2084, 0.5),
    "two.mkv": lambda path: write_two(path, [(32, 32, 50, NONE), (96, 128, 180, DEFAULT)]),
    "deep.mkv": lambda path: write_video(path, codec="ffv1", pixels="yuv422p10le"),
    "rtl.avi": lambda path: write_video(path, codec="mpeg4"),
    "stream.ts": write_video,
}


@pytest.mark.parametrize("name", CLIPS)
def test_all_ways_of_reading_give_the_same_frames(tmp_path, name):
    file = tmp_path / name
    CLIPS[name](file)
    whole, fps = media.read_clip(file)
    facts = media.probe(file)
    assert (fps, *whole.shape[1:3]) == (facts.fps, facts.height, facts.width)
    with media.open_clip(file) as clip:
        assert clip.count_frames() == len(whole)
        np.testing.assert_array_equal(clip.frames([number / fps for number in range(len(whole))]), whole)
        np.testing.assert_array_equal(clip.all_frames(3), whole[:3])
    held = media.HeldFile(name, file.read_bytes())
    with media.open_clip(held) as clip:
        np.testing.assert_array_equal(clip.all_frames(), whole)


def test_pixels_that_are_not_square_are_widened_in_all_of_a_clip(tmp_path):
    assert media.read_clip(write_video(tmp_path / "a.mp4", edit=wide))[0].shape[1:3] == (48, 85)
    # as it is looked at: widened, then turned
    assert media.read_clip(write_video(tmp_path / "b.mp4", edit=turned_and_wide))[0].shape[1:3] == (85, 48)


@pytest.mark.parametrize("name", ["half.mov", "half png.mov", "half.webm", "half.mkv"])
def test_what_can_be_seen_through_is_white_in_films_as_in_pictures(tmp_path, name):
    CLIPS[name](tmp_path / name)
    frame = media.read_clip(tmp_path / name)[0][-1]
    assert frame[:, 40:].min() >= 253
    assert np.abs(frame[10, 10].astype(int) - (200, 0, 0)).max() < 4


# Codes of the screen (gamma 2.4) for light up to half of the reference white; above it they are compressed.
@pytest.mark.parametrize(
    ("transfer", "code", "light"),
    [
        (ColorTrc.ARIB_STD_B67, 0.5, 1000 / 203 * (1 / 12) ** 1.2),
        (ColorTrc.ARIB_STD_B67, 0.25, 1000 / 203 * (0.25**2 / 3) ** 1.2),
        (ColorTrc.SMPTE2084, 0.4402, 50 / 203),
        (ColorTrc.SMPTE2084, 0.2999, 10 / 203),
        (ColorTrc.SMPTE2084, 0.0, 0.0),
    ],
)
def test_hdr_is_shown_as_on_an_sdr_screen(tmp_path, transfer, code, light):
    file = write_hdr(tmp_path / "hdr.mkv", transfer, code)
    frames, _ = media.read_clip(file)
    assert np.abs(frames.astype(float) - 255 * light ** (1 / 2.4)).max() <= 2
    with media.open_clip(file) as clip:
        (note,) = clip.notes
    assert note.startswith(f"is HDR ({'PQ' if transfer == ColorTrc.SMPTE2084 else 'HLG'})")


def test_bright_light_is_compressed_in_order_and_white_stays_bright():
    codes = np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None].repeat(3, axis=2)
    for transfer, white in ((ColorTrc.ARIB_STD_B67, 0.75), (ColorTrc.SMPTE2084, 0.5807)):
        shown = to_sdr(codes, transfer)[0, :, 0].astype(int)
        assert (np.diff(shown) >= 0).all()
        assert 225 <= shown[round(white * 255)] <= 245
        assert shown[-1] == 255
    red = to_sdr((np.array([[[0.8, 0.2, 0.2]]] * 70) * 65535).astype(np.uint16), ColorTrc.ARIB_STD_B67)
    assert red.shape == (70, 1, 3)  # more rows than are converted at a time
    assert red[-1, 0, 0] > 200 > 60 > red[-1, 0, 1]


def test_a_plain_clip_has_no_notes_and_an_interlaced_one_has(tmp_path):
    with media.open_clip(write_video(tmp_path / "plain.mp4")) as clip:
        clip.count_frames()
        assert clip.notes == ()

    def interlaced(stream):
        stream.options = {"x264-params": "interlaced=1"}

    with media.open_clip(write_video(tmp_path / "combs.mp4", edit=interlaced)) as clip:
        assert clip.notes[0].startswith("is interlaced")


def write_interlaced(path, codec, options, count=40):
    """A bar that moves on from field to field; that of the odd lines, counted from 0, is the earlier one."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.color_range = 6, ColorRange.MPEG
        for number in range(count):
            image = np.zeros((48, 64, 3), np.uint8)
            for field in (0, 1):
                left = 2 * (2 * number + (1 - field)) % 56
                image[field::2, left : left + 8] = 255
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode(None))
    return path


def combs(frame):
    """How much every second line differs from the lines beside it."""
    gray = frame.mean(axis=-1)
    return float(np.abs(2 * gray[1:-1] - gray[:-2] - gray[2:]).mean())


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"x264-params": "interlaced=1:crf=4"}),
        ("a.ts", "mpeg2video", {"flags": "+ildct+ilme", "b": "4M"}),
        ("a.avi", "libx264", {"x264-params": "interlaced=1:crf=4"}),
    ],
)
def test_interlaced_films_are_deinterlaced_whichever_way_they_are_read(tmp_path, name, codec, options):
    file = write_interlaced(tmp_path / name, codec, options)
    frames, fps = media.read_clip(file)
    assert (len(frames), fps) == (40, 25)
    with av.open(str(file)) as film:
        stored = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert min(map(combs, stored)) > 20 > 2 > max(map(combs, frames))
    kept = np.abs(frames[:, 1::2].astype(int) - np.stack(stored)[:, 1::2])
    assert kept.mean(axis=(1, 2, 3)).max() < 3
    for start in (0, 1, 17, 24, 35):
        with media.open_clip(file) as clip:
            part = clip.frames([number / fps for number in range(start, start + 5)])
        assert np.array_equal(part, frames[start : start + 5])
    with media.open_clip(file) as clip:
        assert clip.count_frames() == 40
        assert [note.split(":")[0] for note in clip.notes] == ["is interlaced"]


def test_parts_of_a_program_stream_are_those_of_the_whole(tmp_path):
    """Many of its frames share a packet with one time; after a seek the others get a guessed one."""
    options = {"flags": "+ildct+ilme", "b": "60k"}
    for number in range(8):  # the encoder does not write the same bytes each time
        file = write_interlaced(tmp_path / f"{number}.mpg", "mpeg2video", options, count=70)
        times = [count / 25 for count in range(70)]
        with media.open_clip(file) as clip:
            whole = clip.frames(times)
        for start in range(0, 70, 6):
            with media.open_clip(file) as clip:
                part = clip.frames(times[start : start + 5])
            assert np.array_equal(part, whole[start : start + 5])


@pytest.mark.parametrize(
    ("streams", "shown"),
    [
        ([(32, 32, 50, NONE), (96, 128, 180, DEFAULT)], 180),
        ([(32, 32, 50, DEFAULT), (96, 128, 180, NONE)], 50),
        ([(32, 32, 50, DEFAULT), (96, 128, 180, DEFAULT)], 180),
        ([(32, 32, 50, NONE), (96, 128, 180, NONE)], 180),
        ([(96, 128, 180, NONE), (32, 32, 50, NONE)], 180),
        ([(96, 128, 180, DEFAULT), (96, 128, 50, DEFAULT)], 180),
    ],
)
def test_of_two_films_in_a_file_the_default_one_is_read_else_the_largest(tmp_path, streams, shown):
    file = write_two(tmp_path / "two.mkv", streams)
    frames, _ = media.read_clip(file)
    assert abs(float(frames.mean()) - shown) < 3
    assert media.probe(file).height == frames.shape[1]


@pytest.mark.parametrize("flags", ["dash", "frag_keyframe", "frag_keyframe+empty_moov", "cmaf+global_sidx"])
def test_films_in_fragments_have_all_their_frames(tmp_path, flags):
    """As they are streamed, and recorded: the header knows none, or those of the first fragment."""
    file = tmp_path / "a.mp4"
    with av.open(str(file), "w", options={"movflags": flags}) as container:
        stream = container.add_stream("libx264", rate=8, options={"g": "8", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(32):
            image = np.full((48, 64, 3), 7 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with media.open_clip(file) as clip:
        assert clip.count_frames() == 32
        assert clip.facts.duration == pytest.approx(4)
        assert clip.facts.frames is None
        assert clip.notes == ()
        assert len(clip.frames([number / 8 for number in range(32)])) == 32


def test_a_cut_film_gives_the_same_frames_however_it_is_read(tmp_path):
    """Also where its last frame is cut off."""
    whole, remarks = write_video(tmp_path / "a.flv", count=24).read_bytes(), set()
    for part in (0.68, 0.76, 0.84, 0.92):
        (tmp_path / "b.flv").write_bytes(whole[: int(len(whole) * part)])
        frames, _ = media.read_clip(tmp_path / "b.flv")
        with media.open_clip(tmp_path / "b.flv") as clip:
            np.testing.assert_array_equal(clip.all_frames(), frames)
            assert 1 < len(frames) < 24
            remarks.update(clip.notes)
    assert remarks == {"its last frame is damaged or cut off, and left out"}


@pytest.mark.parametrize(("name", "codec"), [("a.mpg", "mpeg2video"), ("a.flv", "libx264")])
def test_a_length_that_ffmpeg_guesses_is_that_of_the_frames(tmp_path, name, codec):
    file = write_video(tmp_path / name, count=32, fps=25, codec=codec)
    facts = media.probe(file)
    assert facts.duration == pytest.approx(32 / 25, abs=0.002)
    with media.open_clip(file) as clip:
        assert numbers(clip.frames([facts.last_time])) == [31]


def test_a_cover_picture_is_not_the_film(tmp_path):
    frames, _ = media.read_clip(
        write_two(tmp_path / "cover.mp4", [(200, 200, 50, COVER), (48, 64, 180, DEFAULT)])
    )
    assert frames.shape == (8, 48, 64, 3)
    song = write_two(tmp_path / "song.mp4", [(200, 200, 50, COVER)])
    with pytest.raises(ValueError, match=r"song\.mp4: .*holds no video, only a cover picture"):
        media.read_clip(song)


# ---- pictures ---------------------------------------------------------------------------------------


def test_the_range_of_a_deep_picture_is_that_of_its_format(tmp_path):
    deep = np.zeros((4, 4), np.uint16)
    deep[0] = (0, 200, 255, 65535)
    Image.fromarray(deep).save(tmp_path / "dark.png")
    assert media.read_clip(tmp_path / "dark.png")[0][0, 0, :, 0].tolist() == [0, 0, 0, 255]
    Image.fromarray(deep).save(tmp_path / "clear.png", transparency=200)
    assert media.read_clip(tmp_path / "clear.png")[0][0, 0, :, 0].tolist() == [0, 255, 0, 255]


def test_a_photograph_with_smaller_copies_in_it_is_one_image(tmp_path):
    photo = Image.new("RGB", (40, 30), "red")
    photo.save(
        tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (20, 10))]
    )
    assert media.probe(tmp_path / "photo.jpg") == media.Facts("image", 40, 30, 0.0, 1.0, 1, "picture")


def test_the_still_of_a_moving_png_for_old_readers_is_not_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 100, 200)]
    still = Image.new("RGB", (8, 8), "white")
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=125)
    found, fps = media.read_clip(tmp_path / "a.png")
    assert (found[:, 0, 0, 0].tolist(), fps) == ([10, 100, 200], 8)


def test_films_of_sixteen_bits_keep_their_range(tmp_path):
    image = np.full((48, 64), 200, np.uint16)
    file = write_rgb(tmp_path / "dark.mkv", [image] * 2, "ffv1", "gray16le", "gray16le")
    assert media.read_clip(file)[0].max() <= 1
    deep = write_video(tmp_path / "deep.mkv", count=8, codec="ffv1", pixels="gbrp10le")
    assert numbers(media.read_clip(deep)[0]) == list(range(8))
