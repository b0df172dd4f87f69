"""Clips and images as files: the only room that knows PyAV and Pillow.

Writes mp4 (h264, yuv420p, index in front, so that browsers play it), gif, animated webp and png, each with
the settings that made it embedded as JSON; reads clips and settings back; looks into any clip or image and
decodes the frames at given times, and no more. Not a data set reader (that is `data/`) and not a
video editor: a clip is an array of frames and a rate, nothing more.

    write_clip("out/cat.mp4", frames, fps=8, settings={"prompt": "a cat", "seed": 7})
    frames, fps = read_clip("out/cat.mp4")            # all of a clip
    read_settings("out/cat.mp4")["seed"]
    probe("holiday.mov").duration                     # seconds, without decoding the clip
    with open_clip("holiday.mov") as clip:            # a few frames of a long one
        frames = clip.frames([10.0, 10.125, 10.25])

What each format keeps: webp and png are exact; mp4 halves the resolution of the colours (not of the
brightness) and compresses lightly; gif has 256 colours a frame.
Shapes: F frames, H, W pixels, 3 channels RGB, uint8 0..255.
"""

from latent_shift.media.clip import Clip, Facts
from latent_shift.media.decode import (
    CLIP_SUFFIXES,
    IMAGE_SUFFIXES,
    EndsEarlyError,
    File,
    Frames,
    HeldFile,
    Kind,
    kind_by_name,
)
from latent_shift.media.matting import remove_ground
from latent_shift.media.pictures import kind_of, kind_of_file
from latent_shift.media.read import open_clip, probe, read_clip, read_settings
from latent_shift.media.sheet import GAP, contact_sheet
from latent_shift.media.write import (
    MAX_RATES,
    WITH_ALPHA,
    WRITERS,
    check_output,
    encode_image,
    write_clip,
    write_image,
)

__all__ = [
    "CLIP_SUFFIXES",
    "GAP",
    "IMAGE_SUFFIXES",
    "MAX_RATES",
    "WITH_ALPHA",
    "WRITERS",
    "Clip",
    "EndsEarlyError",
    "Facts",
    "File",
    "Frames",
    "HeldFile",
    "Kind",
    "check_output",
    "contact_sheet",
    "encode_image",
    "kind_by_name",
    "kind_of",
    "kind_of_file",
    "open_clip",
    "probe",
    "read_clip",
    "read_settings",
    "remove_ground",
    "write_clip",
    "write_image",
]
