"""Files that clips become: colours, rates, settings, whole or not at all; and broken files from strangers."""

import os
import random

import av
import numpy as np
import pytest
from PIL import Image

from latent_shift import media
from latent_shift.media.pictures import parse_settings

COLOURS = [(220, 40, 40), (40, 180, 70), (50, 80, 220), (235, 210, 50), (15, 15, 15), (240, 240, 240)]
SETTINGS = {
    "prompt": 'un café, 圆 "quoted"',
    "seed": 7,
    "fps": 8,
    "frames": 16,
    "guidance": 7.5,
    "negative": None,
}


@pytest.fixture
def frames():
    """Two rows of flat 32 x 32 patches, 64 x 96, with a white bar that moves: 16 frames."""
    clip = np.zeros((16, 64, 96, 3), np.uint8)
    for index, colour in enumerate(COLOURS):
        row, column = divmod(index, 3)
        clip[:, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = colour
    for f in range(16):
        clip[f, :2, f * 6 : f * 6 + 6] = 255
    return clip


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_settings_come_back_from_every_format(tmp_path, frames, suffix):
    path = media.write_clip(tmp_path / f"clip{suffix}", frames, 8, SETTINGS)
    assert media.read_settings(path) == SETTINGS
    assert leftovers(tmp_path) == [f"clip{suffix}"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_images_of_a_pipeline_are_a_clip(tmp_path, frames, suffix):
    images = [Image.fromarray(frame) for frame in frames]
    one = media.write_clip(tmp_path / f"images{suffix}", images)
    other = media.write_clip(tmp_path / f"array{suffix}", frames)
    if suffix == ".mp4":  # two files of one clip differ now and then, their frames do not
        assert np.array_equal(media.read_clip(one)[0], media.read_clip(other)[0])
    else:
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ValueError, match="the images are of several sizes"):
        media.write_clip(tmp_path / f"sizes{suffix}", [images[0], images[1].resize((32, 32))])
    with pytest.raises(ValueError, match="no side 0"):
        media.write_clip(tmp_path / f"none{suffix}", [])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("fps", [8, 12.5, 24, 30])
def test_a_loop_that_holds_still_keeps_its_frames_and_shows_all_equally_long(tmp_path, suffix, fps):
    clip = np.zeros((16, 8, 8, 3), np.uint8)
    clip[3, 0], clip[10:13, 1] = 255, 255
    for name, frames in (("moves", clip), ("still", clip[:1].repeat(16, axis=0))):
        read, rate = media.read_clip(media.write_clip(tmp_path / f"{name}{suffix}", frames, fps, loop=True))
        assert len(read) == 16
        delay = (10 if suffix == ".gif" else 1) * round(1000 / fps / (10 if suffix == ".gif" else 1))
        assert rate == pytest.approx(1000 / delay)
        if name == "moves":
            assert np.array_equal(read, frames)


def test_a_gif_says_what_it_cannot_hold(tmp_path):
    still = np.zeros((700, 8, 8, 3), np.uint8)
    still[0] = 255
    with pytest.raises(ValueError, match=r"a\.gif: shows one picture for longer than the 655 s"):
        media.write_clip(tmp_path / "a.gif", still, fps=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16384), (".mp4", 16386), (".gif", 65536)])
def test_frames_too_large_for_a_format_are_refused_before_and_while_writing(tmp_path, suffix, side):
    path, shape = tmp_path / f"a{suffix}", (2, 8, side)
    for write in (
        lambda: media.write_clip(path, np.zeros((*shape, 3), np.uint8)),
        lambda: media.check_output(path, shape=shape),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}: frames of 8 x {side} are larger than"):
            write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("settings", [None, SETTINGS])
def test_gif_and_webp_keep_flat_colours_exactly(tmp_path, frames, suffix, settings):
    back, fps = media.read_clip(media.write_clip(tmp_path / f"clip{suffix}", frames, 8, settings))
    np.testing.assert_array_equal(back, frames)
    assert fps == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_clip_that_stands_still_keeps_its_length(tmp_path, frames, suffix):
    still = np.repeat(frames[:1], 16, axis=0)
    back, fps = media.read_clip(media.write_clip(tmp_path / f"clip{suffix}", still, 8, SETTINGS))
    assert (len(back), fps) == (16, 8)


def test_gif_shows_two_seconds_although_its_clock_ticks_in_hundredths(tmp_path, frames):
    media.write_clip(tmp_path / "clip.gif", frames, 8)
    with Image.open(tmp_path / "clip.gif") as image:
        shown = [image.seek(f) or image.info["duration"] for f in range(image.n_frames)]
        assert image.info["loop"] == 0
    assert sum(shown) == 2000


def test_mp4_is_what_browsers_play(tmp_path, frames):
    path = media.write_clip(tmp_path / "clip.mp4", frames, 8)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, stream.frames, stream.average_rate) == ("h264", "yuv420p", 16, 8)
        assert (codec.colorspace, codec.color_range, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
        luma = next(container.decode(stream)).to_ndarray()[48, 16]  # the patch of COLOURS[3]
    red, green, blue = COLOURS[3]
    assert luma == pytest.approx(16 + 219 / 255 * (0.2126 * red + 0.7152 * green + 0.0722 * blue), abs=2)


def test_mp4_keeps_colours_and_the_order_of_frames(tmp_path, frames):
    back, fps = media.read_clip(media.write_clip(tmp_path / "clip.mp4", frames, 8))
    assert back.shape == frames.shape
    assert fps == 8
    for index, colour in enumerate(COLOURS):
        row, column = divmod(index, 3)
        patch = back[:, row * 32 + 8 : row * 32 + 24, column * 32 + 8 : column * 32 + 24]
        assert np.abs(patch.reshape(-1, 3).mean(0) - colour).max() < 4
    bar = back[:, 0].astype(int).sum(-1).argmax(1)
    assert (np.diff(bar) > 0).sum() >= 14


def test_mp4_pads_odd_sides_by_repeating_the_edge(tmp_path):
    frames = np.full((2, 15, 33, 3), 200, np.uint8)
    back, _ = media.read_clip(media.write_clip(tmp_path / "clip.mp4", frames, 7.5))
    assert back.shape == (2, 16, 34, 3)
    assert np.abs(back.astype(int) - 200).max() < 4


def test_png_is_the_image_or_a_contact_sheet(tmp_path, frames):
    image = media.write_image(tmp_path / "image.png", frames[0], SETTINGS)
    back, fps = media.read_clip(image)
    np.testing.assert_array_equal(back, frames[:1])
    assert fps == 1
    sheet, _ = media.read_clip(media.write_clip(tmp_path / "sheet.png", frames))
    assert sheet.shape == (1, 4 * 66 + 2, 4 * 98 + 2, 3)
    np.testing.assert_array_equal(sheet[0, 2 + 66 : 2 + 66 + 64, 2 + 98 : 2 + 98 + 96], frames[5])


def test_existing_files_are_kept_unless_told(tmp_path, frames):
    path = media.write_clip(tmp_path / "clip.gif", frames)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"clip\.gif: exists already; use --force"):
        media.write_clip(path, frames[:3])
    assert path.read_bytes() == before
    media.write_clip(path, frames[:3], overwrite=True)
    assert len(media.read_clip(path)[0]) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("links", [True, False])  # of the file system
def test_a_file_that_comes_while_the_parts_are_made_is_kept(tmp_path, frames, suffix, links, monkeypatch):
    path = tmp_path / f"clip{suffix}"

    def parts():
        yield frames[:8]
        path.write_text("mine")
        path.with_stem("clip-2").write_text("mine, too")
        yield frames[8:]

    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.warns(
        UserWarning, match=rf"clip\{suffix}: has come there .* the result is .*clip-3\{suffix}"
    ):
        written = media.write_clip(path, parts(), 8, SETTINGS)
    assert written == path.with_stem("clip-3")
    assert (path.read_text(), path.with_stem("clip-2").read_text()) == ("mine", "mine, too")
    assert media.read_settings(written) == SETTINGS
    assert leftovers(tmp_path) == [f"clip-2{suffix}", f"clip-3{suffix}", f"clip{suffix}"]
    with pytest.raises(ValueError, match="exists already"):
        media.write_clip(path, iter(lambda: pytest.fail("was made in vain"), None), 8)


def test_a_name_that_is_taken_at_the_last_moment_is_kept(tmp_path, frames, monkeypatch):
    path, link = tmp_path / "clip.webp", os.link

    def late(source, target):
        if target == path:
            path.write_text("mine")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.warns(UserWarning, match="the result is .*clip-2.webp"):
        assert media.write_clip(path, frames) == path.with_stem("clip-2")
    assert path.read_text() == "mine"
    assert leftovers(tmp_path) == ["clip-2.webp", "clip.webp"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("accident", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_no_half_file_after_an_accident(tmp_path, frames, suffix, accident, monkeypatch):
    finished = media.WRITERS[suffix]

    def interrupted(*arguments):
        finished(*arguments)
        raise accident

    monkeypatch.setitem(media.WRITERS, suffix, interrupted)
    with pytest.raises((KeyboardInterrupt, ValueError)):
        media.write_clip(tmp_path / f"clip{suffix}", frames)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["s3://bucket/a.mp4", "file:///tmp/a.mp4", "HTTPS://host/a.mp4"])
def test_addresses_are_no_outputs(name):
    with pytest.raises(ValueError, match=r"a\.mp4: is an address; name a file of this machine"):
        media.check_output(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip.avi", r"unknown suffix '\.avi'.*\.mp4 \.gif \.webp \.png"),
        ("clip", "unknown suffix ''"),
        ("file/clip.mp4", "is a file, and no folder"),
        ("file/deeper/clip.mp4", "is a file, and no folder"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_bad_outputs_are_refused_without_a_trace(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match=message):
        media.check_output(tmp_path / name)
    assert leftovers(tmp_path) == ["file", "folder.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("folder", ["run:1", "http:", "100% #1?", "-o", "pipe:0"])
def test_folders_of_any_name(tmp_path, frames, suffix, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = media.write_clip(f"{folder}/clip{suffix}", frames[:1])
    assert len(media.read_clip(path)[0]) == 1
    assert leftovers(tmp_path / folder) == [f"clip{suffix}"]


def test_a_good_output_leaves_no_trace_either(tmp_path):
    media.check_output(tmp_path / "new" / "folder" / "clip.mp4")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("bad", "fps", "settings"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), 8, None),
        (np.zeros((8, 8, 3), np.uint8), 8, None),
        (np.zeros((0, 8, 8, 3), np.uint8), 8, None),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, None),
        (np.zeros((2, 8, 8, 3), np.uint8), float("nan"), None),
        (np.zeros((2, 8, 8, 3), np.uint8), 8, {"x": object()}),
        (np.zeros((2, 8, 8, 3), np.uint8), 8, {"x": float("nan")}),
    ],
)
def test_bad_values_write_nothing(tmp_path, bad, fps, settings):
    with pytest.raises(ValueError, match=r"frames|fps|settings|JSON"):
        media.write_clip(tmp_path / "clip.mp4", bad, fps, settings)
    assert leftovers(tmp_path) == []


def test_reading_can_stop_early(tmp_path, frames):
    for suffix in (".mp4", ".gif"):
        path = media.write_clip(tmp_path / f"clip{suffix}", frames)
        assert len(media.read_clip(path, max_frames=3)[0]) == 3


def test_files_without_settings_say_so(tmp_path, frames):
    assert parse_settings('{"latent_shift": {"seed": 1}}') == {"seed": 1}
    assert parse_settings('{"latent_shift": {"seed": NaN}}') is None  # is no JSON
    Image.fromarray(frames[0]).save(tmp_path / "plain.png")
    Image.fromarray(frames[0]).save(tmp_path / "other.gif", comment=b'{"made": "elsewhere"}')
    for name in ("plain.png", "other.gif"):
        with pytest.raises(ValueError, match=rf"{name}: carries no settings"):
            media.read_settings(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_broken_files_give_a_clip_or_a_value_error_that_names_them(tmp_path, frames, suffix):
    whole = media.write_clip(tmp_path / f"whole{suffix}", frames, 8, SETTINGS).read_bytes()
    draw = random.Random(0)
    broken = tmp_path / f"broken{suffix}"
    failures = 0
    for trial in range(60):
        data = bytearray(whole)
        if trial % 2:
            del data[draw.randrange(len(data)) :]
        else:
            for _ in range(draw.choice((1, 5, 50))):
                data[draw.randrange(len(data))] = draw.randrange(256)
        broken.write_bytes(data)
        for read in (media.read_clip, media.read_settings):
            try:
                read(broken)
            except ValueError as error:
                failures += 1
                assert "broken" in str(error)  # noqa: PT017
    assert failures > 20


def test_a_playlist_posing_as_a_video_opens_nothing(tmp_path, frames):
    clip = media.write_clip(tmp_path / "clip.mp4", frames)
    (tmp_path / "hls.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {clip}\n")
    for name in ("hls.mp4", "concat.mp4"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            media.read_clip(tmp_path / name)


def test_missing_files_and_folders_are_value_errors(tmp_path):
    with pytest.raises(ValueError, match=r"none\.mp4: no such file"):
        media.read_clip(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="is not a file"):
        media.read_settings(tmp_path)


def test_a_sheet_that_nobody_could_read_is_not_made():
    frames = np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (200, 1024, 1024, 3))
    with pytest.raises(ValueError, match="a sheet of 221 million pixels is larger than the 150 million"):
        media.contact_sheet([frames], columns=15)


def test_contact_sheet_lays_clips_in_lines_below_their_captions(frames):
    plain = media.contact_sheet([frames, frames[:5]], columns=8)
    assert plain.shape == (2 + 3 * 66, 2 + 8 * 98, 3)
    np.testing.assert_array_equal(plain[2 + 2 * 66 : 2 + 2 * 66 + 64, 2:98], frames[0])
    captioned = media.contact_sheet([frames], captions=["a red circle moving left " * 20])
    assert captioned.shape[0] > 2 + 66 + 14
    assert captioned[:20].max() > 200  # drawn text
    for caption in (
        "W" * 400,
        "красный " * 50,
    ):  # nothing is cut at the edge
        shown = media.contact_sheet([frames[:1]], captions=[caption])[2:-66]
        assert (shown[:, -3:] == 32).all()
        assert len(shown) >= 5 * 14
    strips = [media.contact_sheet([frames], captions=[text]) for text in ("\u732b", "\u72ac", "\\u72ac")]
    assert (strips[0] != strips[1]).any()  # the font has neither; their numbers are shown
    np.testing.assert_array_equal(strips[1], strips[2])
    with pytest.raises(ValueError, match="1 captions for 2 clips"):
        media.contact_sheet([frames, frames], captions=["one"])
    with pytest.raises(ValueError, match="one frame size"):
        media.contact_sheet([frames, frames[:, :8]])
