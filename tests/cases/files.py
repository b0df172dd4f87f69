"""Checks of the cases about files that are read: clips, pictures, captions, collections."""

import json

import av
import numpy as np
from PIL import Image

from cases.case import check
from latent_shift.media import open_clip, probe, read_clip

RED = "a red circle moving left on a black background"
EVALUATE = ("--extractor", "moving-shapes", "--resamples", 0)


def bad(report):
    """Reasons by the keys of bad entries."""
    return {one["key"]: one["reason"] for one in report["bad"]}


def looked_at(case, source="clips"):
    """The report of `data check`."""
    return case.report("data", "check", source, "--json", "--workers", 1)


# ---- timing of moving pictures ----------------------------------------------------------------------


@check("zero-delay-gif")
def zero_delay_gif(case):
    report = looked_at(case)
    assert (report["clips"], report["frames"], report["bad"]) == (1, 8, []), report
    (rate,) = report["frame_rates"]
    return f"8 frames at {rate} a second"


@check("webp-above-100-fps")
def webp_above_100_fps(case):
    case.succeed("generate", RED, "--steps", 1, "--seed", 1, "--fps", 240, "-o", "a.webp", "--force")
    frames, fps = read_clip(case.folder / "a.webp")
    assert (len(frames), fps) == (16, 240), (len(frames), fps)
    result = case.run("evaluate", "folders", ".", ".", *EVALUATE, "--frames", 17)
    assert "has 16 frames, 17 are requested" in result.error
    return "16 frames at 240 a second come back"


@check("gif-above-50-fps")
def gif_above_50_fps(case):
    error = case.run("generate", RED, "--steps", 1, "--seed", 1, "--fps", 60, "-o", "a.gif", "--force").error
    assert not (case.folder / "a.gif").exists()
    case.succeed("generate", RED, "--steps", 1, "--seed", 1, "--fps", 48, "-o", "a.gif", "--force")
    with Image.open(case.folder / "a.gif") as image:
        delays = [image.seek(number) or image.info["duration"] for number in range(image.n_frames)]
    assert min(delays) >= 20, delays
    return error


# ---- a file counts as what it holds -----------------------------------------------------------------


@check("animated-webp-as-source")
def animated_webp_as_source(case):
    report = looked_at(case)
    assert (report["clips"], report["images"], report["bad"]) == (2, 0, []), report
    return "2 clips"


@check("caption-suffix-in-capitals")
def caption_suffix_in_capitals(case):
    report = looked_at(case)
    assert (report["clips"], report["captions"]["number"], report["bad"]) == (2, 2, []), report
    return "2 clips with their captions"


@check("tar-from-a-mac")
def tar_from_a_mac(case):
    report = looked_at(case, "clips.tar")
    assert (report["clips"], report["bad"]) == (2, []), report
    return "2 clips, nothing bad"


# ---- one reader -------------------------------------------------------------------------------------


@check("anamorphic-in-evaluate")
def anamorphic_in_evaluate(case):
    found = []
    for rate in ((), ("--fps", 24)):
        command = ("evaluate", "folders", "square", "anamorphic", *EVALUATE, "--fit", "crop", *rate, "--json")
        (row,) = case.report(*command)["rows"]
        found.append(next(value["value"] for key, value in row["results"].items() if key.startswith("FVD")))
    assert found[0] == found[1] < 0.015, found
    return f"distances {found[0]:.4f} and {found[1]:.4f}"


@check("two-video-streams")
def two_video_streams(case):
    report = looked_at(case)
    assert report["sizes"] == {"128x96": 1}, report["sizes"]
    assert read_clip(case.folder / "clips" / "two.mkv")[0].shape[1:3] == (96, 128)
    return "128x96"


@check("dark-16-bit-png")
def dark_16_bit_png(case):
    values = read_clip(case.folder / "pictures" / "dark.png")[0][0, 0, [0, 15], 0]
    assert values.max() <= 1, values
    return str(values.tolist())


@check("good-display-matrices")
def good_display_matrices(case):
    files = sorted(case.folder.glob("*.mp4"))
    for file in files:
        frames, _ = read_clip(file)
        facts = probe(file)
        assert frames.shape[1:3] == (facts.height, facts.width)
        with av.open(str(file)) as container:
            stored = list(container.decode(video=0))
        turns = round(stored[0].rotation / 90)
        upright = np.rot90([frame.to_ndarray(format="rgb24") for frame in stored], turns, axes=(1, 2))
        ways = [upright, upright[:, :, ::-1], upright[:, ::-1]] if "mirrored" in file.stem else [upright]
        assert sum(np.array_equal(frames, way) for way in ways) == 1, file.name
        assert "mirrored" not in file.stem or not np.array_equal(frames, upright), file.name
    return f"{len(files)} clips stand upright"


# ---- read wrongly, and nothing said -----------------------------------------------------------------


@check("hdr-hlg")
def hdr_hlg(case):
    notes = looked_at(case)["notes"]
    assert len(notes) == 1, notes
    assert notes[0].startswith("phone.mp4: is HDR (HLG)"), notes
    window = ("--frames", 8, "--fps", 24, "--height", 48, "--width", 64)
    result = case.run("data", "preview", "clips", *window, "-o", "preview.png", "--force")
    assert result.status == 0, result.err
    assert result.err.count("is HDR") == 1, result.err
    return notes[0]


@check("see-through-mov")
def see_through_mov(case):
    corners = [read_clip(case.folder / "clips" / name)[0][0, 0, 31] for name in ("film.mov", "film2.gif")]
    assert all((corner == 255).all() for corner in corners), corners
    return "white in both"


@check("avi-cut-off")
def avi_cut_off(case):
    reasons = bad(looked_at(case))
    assert "is cut short" in reasons["cut.avi"], reasons
    return reasons["cut.avi"]


@check("size-changes-midway")
def size_changes_midway(case):
    reasons = bad(looked_at(case))
    assert "changes its size" in reasons["two.ts"], reasons
    return reasons["two.ts"]


@check("good-header-off-by-one")
def good_header_off_by_one(case):
    report = looked_at(case, "table.csv")
    assert (report["clips"], report["bad"]) == (1, []), report
    window = ("--frames", 8, "--fps", 24, "--height", 48, "--width", 64)
    result = case.run("data", "preview", "table.csv", *window, "-o", "preview.png", "--force")
    assert (result.status, result.err) == (0, ""), result.err
    with open_clip(case.folder / "clips" / "plus1.avi") as clip:
        assert clip.count_frames() == 24
    return "good, and its last frames can be read"


@check("folder-with-a-colon")
def folder_with_a_colon(case):
    file = "run:1/clip.mp4"
    assert case.succeed("generate", RED, "--steps", 1, "--seed", 1, "-o", file) == f"{file}\n"
    assert len(read_clip(case.folder / file)[0]) == 16
    return f"{file} is written"


# ---- text -------------------------------------------------------------------------------------------


@check("good-caption-encodings")
def good_caption_encodings(case):
    report = looked_at(case)
    counts = report["clips"], report["captions"]["number"], len(report["notes"])
    assert (counts, report["bad"]) == ((8, 9, 2), []), report
    return "8 clips, 9 captions, 2 notes"


@check("caption-utf16-without-mark")
def caption_utf16_without_mark(case):
    report = looked_at(case)
    assert "\0" not in json.dumps(report)
    assert report["captions"]["longest"] == "a bar moves", report
    assert len(report["notes"]) == 1
    return report["notes"][0]


@check("evaluate-caption-not-utf8")
def evaluate_caption_not_utf8(case):
    report = case.report("evaluate", "folders", "real", "made", *EVALUATE, "--json")
    assert any(key.startswith("CLIPSIM") for key in report["rows"][0]["results"]), report
    (note,) = [note for note in report["notes"] if "0.txt" in note]
    return note


@check("prompts-line-separator")
def prompts_line_separator(case):
    out = case.succeed("generate", "--prompts", "prompts.jsonl", "--steps", 1, "--frames", 2, "-o", "out/")
    assert len(out.splitlines()) == 1, out
    return "one prompt"


@check("csv-quote-never-closed")
def csv_quote_never_closed(case):
    report = looked_at(case, "table.csv")
    reasons = bad(report)
    assert list(reasons) == ["table.csv line 2"], reasons
    assert report["clips"] == 2, report
    return f"line 2 {reasons['table.csv line 2']}; 2 clips are left"


@check("csv-blank-before-quote")
def csv_blank_before_quote(case):
    report = looked_at(case, "table.csv")
    assert (report["clips"], report["bad"]) == (1, []), report
    assert report["captions"]["longest"] == "cars pass, and a cyclist"
    return "read, the comma within its caption"


# ---- one file ends all ------------------------------------------------------------------------------


@check("evaluate-meets-a-short-clip")
def evaluate_meets_a_short_clip(case):
    allowed = ("--allow-short", "--allow-unreadable")
    report = case.report("evaluate", "folders", "real", "made", *EVALUATE, *allowed, "--json")
    (note,) = [note for note in report["notes"] if "cut.avi" in note]
    assert report["rows"][0]["settings"]["clips"] == 3, report["rows"]
    return note


@check("caption-that-may-not-be-read", slow=True)
def caption_that_may_not_be_read(case):
    case.make()
    result = case.run_without_rights("data", "check", "clips", "--json", "--workers", 1)
    assert result.status == 0, result.err
    report = json.loads(result.out)
    reasons = bad(report)
    assert (report["clips"], list(reasons)) == (5, ["2.mp4"]), report
    return reasons["2.mp4"]


@check("name-not-utf8-pack")
def name_not_utf8_pack(case):
    case.make()
    result = case.run("data", "pack", "clips", "-o", "packed", "--workers", 1)
    assert result.status == 0, result.err
    assert "2 of 2 entries are packed" in result.err, result.err
    assert looked_at(case, "packed/train-000000.tar")["clips"] == 2
    return "2 of 2 packed"


@check("linked-folder")
def linked_folder(case):
    case.make()
    report = looked_at(case, "all")
    assert (report["clips"], report["bad"]) == (3, []), report
    return "3 clips: the link is followed"


# ---- goes well --------------------------------------------------------------------------------------


@check("good-few-and-many-frames")
def good_few_and_many_frames(case):
    shown = (1, 2, 3, 15, 17)
    for frames in shown:
        file = f"f{frames}.webp"
        case.succeed(
            "generate", f"a large {RED[2:]}", "--frames", frames, "--steps", 2, "--seed", 1, "-o", file
        )
        assert len(read_clip(case.folder / file)[0]) == frames
    return f"clips of {', '.join(map(str, shown))} frames"


@check("good-seeds")
def good_seeds(case):
    last = 2**63 - 1
    for seed in (0, 2**32, last):
        case.succeed("generate", RED, "--steps", 1, "--frames", 2, "--seed", seed, "-o", f"s{seed}.webp")
    assert len({read_clip(file)[0].tobytes() for file in case.folder.glob("s*.webp")}) == 3
    many = case.run("generate", RED, "--steps", 1, "--seed", last, "--count", 2, "-o", "many/").error
    below = case.run("generate", RED, "--seed", -1, "-o", "x.mp4").error
    return f"three different clips; {many}; {below}"
