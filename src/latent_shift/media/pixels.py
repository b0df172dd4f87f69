"""Decoded pictures and frames to RGB of 8 bits, by the same rules for both.

Turned upright, see-through parts on white, pixels square. Pictures with a profile of colours (Display P3,
CMYK) become sRGB. Films in HDR (HLG or PQ) and of the colours of BT.2020 or Display P3, and PNGs that say so,
become those of an SDR screen: light linear to the code's curve (ITU-R BT.2100; HLG for a screen of 1000
cd/m2), relative to the reference white of 203 cd/m2 (BT.2408), to the primaries of BT.709 (BT.2087), what is
above half of the white compressed towards it by the largest of the three channels, to the curve of BT.1886.

Shapes: H, W pixels, uint8 (H, W, 3).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

Picture = NDArray[np.uint8]  # (H, W, 3)

HDR = {ColorTrc.SMPTE2084.value: "PQ", ColorTrc.ARIB_STD_B67.value: "HLG"}
INTERLACED = "is interlaced: the lines of its second fields are made anew (bwdif)"
_BT709, _P3, _BT2020 = (
    primaries.value for primaries in (ColorPrimaries.BT709, ColorPrimaries.SMPTE432, ColorPrimaries.BT2020)
)
_WIDE = (_P3, _BT2020)
UNSPECIFIED = 2  # the same number for transfer, primaries and matrix
_WHITE = 203.0  # cd/m2
EXIF_ORIENTATION = 0x0112
_KNEE = 0.5  # of white, above which light is compressed
_TO_BT709 = {
    _BT709: np.eye(3, dtype=np.float32),
    _P3: np.array(
        [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]],
        np.float32,
    ),
    _BT2020: np.array(
        [[1.660491, -0.587641, -0.07285], [-0.12455, 1.1329, -0.008349], [-0.018151, -0.100579, 1.11873]],
        np.float32,
    ),
}
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
_ROWS = 64  # converted at a time: they stay in the cache


def picture_pixels(image: Image.Image, colors: tuple[int, int] | None = None) -> Picture:
    """Convert a picture of Pillow to RGB uint8 (H, W, 3).

    colors: ITU-T H.273's numbers of its primaries and curve, where the file names them.
    """
    if EXIF_ORIENTATION in exif_of(image):
        image = ImageOps.exif_transpose(image)
    if colors is not None and (colors[0] in _WIDE or colors[1] in HDR):
        codes = _picture_codes(image).astype(np.uint16) * 257
        return to_sdr(codes, colors[1], colors[0])
    return _picture_codes(_to_srgb(image))


def exif_of(image: Image.Image) -> Mapping[int, Any]:
    """The EXIF of a picture; none where that is damaged, for the pixels may be sound."""
    try:
        return image.getexif()
    except SyntaxError:
        return {}


def _picture_codes(image: Image.Image) -> Picture:
    """A picture's own RGB (H, W, 3), of 8 bits, see-through parts on white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        deep, clear = np.asarray(image), image.info.get("transparency")
        gray = (deep >> 8).astype(np.uint8)
        return np.repeat(np.where(deep == clear, np.uint8(255), gray)[..., None], 3, axis=2)
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getextrema()[1]:
        image = image.convert("RGB")  # its fourth byte is unused, as in those of Windows
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _to_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB, where a profile of other colours, or other grays, is embedded, as in photos.

    As it is with a profile that is damaged, or of another mode of colour than the picture's.
    """
    profile = image.info.get("icc_profile")
    if profile and image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if not profile or image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        return image
    try:
        from_profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in (from_profile.profile.profile_description or "").lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        to_profile = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, from_profile, to_profile, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def video_pixels(frame: av.VideoFrame, pixel_aspect: float = 1.0) -> Picture:
    """Convert a decoded frame to RGB uint8 (H, W, 3), turned and mirrored by its display matrix.

    pixel_aspect: width of a stored pixel by its height; other than 1, the frame is widened to square pixels.
    """
    wide = None if pixel_aspect == 1 else max(round(frame.width * pixel_aspect), 1)
    # One thread: where the converter has more, a loader's worker that is forked meanwhile waits for them.
    options: dict[str, Any] = {"width": wide, "threads": 1}
    sees_through = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    if frame.color_trc in HDR or frame.color_primaries in _WIDE:
        if frame.colorspace == UNSPECIFIED:
            narrow = frame.color_primaries in (_BT709, _P3)
            options["src_colorspace"] = Colorspace.ITU709 if narrow else Colorspace.BT2020
        layout = "rgba64le" if sees_through else "rgb48le"
        codes = np.asarray(frame.to_ndarray(format=layout, **options), np.uint16)
        pixels = to_sdr(codes[..., :3], frame.color_trc, frame.color_primaries)
        if sees_through:
            alpha = codes[..., 3:] / np.float32(65535)
            pixels = np.round(255 + (pixels - np.float32(255)) * alpha).astype(np.uint8)
    elif sees_through:
        rgba = Image.fromarray(frame.to_ndarray(format="rgba", **options))
        pixels = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))[..., :3]
    else:
        pixels = np.asarray(frame.to_ndarray(format="rgb24", **options), np.uint8)
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return pixels
    matrix = np.frombuffer(bytes(side_data), "<i4")  # (x, y) is shown at (a x + c y, b x + d y)
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) > abs(a):
        pixels, flip_x, flip_y = pixels.transpose(1, 0, 2), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def frame_notes(frame: av.VideoFrame) -> list[str]:
    """Remarks on a frame as it was decoded, as "is HDR (PQ): ..."; equal ones for equal causes."""
    notes = []
    if frame.color_trc in HDR:
        notes.append(hdr_note(frame.color_trc))
    if frame.is_corrupt:
        notes.append("holds damaged frames, of which parts are guessed")
    if frame.interlaced_frame:
        notes.append(INTERLACED)
    return notes


def hdr_note(transfer: int) -> str:
    """The remark on a picture or film with a curve of HDR."""
    return f"is HDR ({HDR[transfer]}): its light is compressed to that of an SDR screen"


def to_sdr(codes: NDArray[np.uint16], transfer: int, primaries: int = _BT2020) -> Picture:
    """Convert R'G'B', 16 bits (H, W, 3), to that of an SDR screen.

    transfer: ITU-T H.273's number of the curve; other than PQ and HLG count as BT.1886. primaries: its number
    of theirs; other than those of BT.709 and Display P3 count as BT.2020's.
    """
    to_bt709 = _TO_BT709.get(primaries, _TO_BT709[_BT2020])
    sdr = np.empty(codes.shape, np.uint8)
    for top in range(0, len(codes), _ROWS):
        light = _light(transfer)[codes[top : top + _ROWS]]
        if HDR.get(transfer) == "HLG":  # light of the scene to that of a screen
            light *= (1000 / _WHITE) * np.power(light @ _LUMINANCE, np.float32(0.2))[..., None]
        light = np.maximum(light @ to_bt709.T, 0)
        if transfer in HDR:
            largest = light.max(axis=-1)
            kept = 1 - (1 - _KNEE) * np.exp((_KNEE - largest) / (1 - _KNEE))
            light *= np.where(largest <= _KNEE, 1, kept / np.maximum(largest, _KNEE))[..., None]
        roots = np.sqrt(np.minimum(light, 1)) * (len(_screen_codes()) - 1)
        sdr[top : top + _ROWS] = _screen_codes()[(roots + 0.5).astype(np.uint16)]
    return sdr


@cache
def _light(transfer: int) -> NDArray[np.float32]:
    """Light of each of 65,536 codes: of PQ and BT.1886 relative to white, of HLG in the scene."""
    code = np.linspace(0, 1, 1 << 16)
    if HDR.get(transfer) == "PQ":
        power = code ** (32 / 2523)
        light = (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)
        light *= 10_000 / _WHITE
    elif HDR.get(transfer) == "HLG":
        dark, bright = code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(code <= 0.5, dark, bright)
    else:
        light = code**2.4
    return light.astype(np.float32)


@cache
def _screen_codes() -> Picture:
    """Codes of BT.1886 by the square root of light, evenly from 0 to 1: more of them in the dark."""
    return np.round(255 * np.linspace(0, 1, 1 << 12) ** (2 / 2.4)).astype(np.uint8)
