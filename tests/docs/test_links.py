"""Links of README.md and docs/ within the repository: the files and the anchors that they name exist."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGET = re.compile(r'\]\(([^)\s]+)|^\[[^\]]+\]: *(\S+)|(?:src|href)="([^"]+)"', re.MULTILINE)


def without_code_blocks(page):
    return re.sub(r"^(```+|~~~+).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    found, times = [], Counter()
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", without_code_blocks(page), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.append(f"{anchor}-{times[anchor]}" if times[anchor] else anchor)
        times[anchor] += 1
    return found


def broken_links(page):
    """Targets of a page that are not there, as they stand in it."""
    text = re.sub(r"(`+)[^`]+\1", "", without_code_blocks(page))
    targets = ["".join(groups) for groups in TARGET.findall(text)]
    broken = []
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):  # an address on the web
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A `key`, [linked](x)?\n\n## Same\n\n## Same\n```\n# code\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n[a](other.md) [b](other.md#a-key-linked) [c](#title) [d\ne](other.md#same-1)"
        " [f](https://example.org/none) `[g](none.md)` [h](none.md) [i](other.md#code) [j](#none)\n"
        '![k](none.svg) <img src="none.gif"> [l](other.md#same-2)\n```\n[m](none.md)\n```\n[n]: none.txt\n'
    )
    expected = ["none.md", "other.md#code", "#none", "none.svg", "none.gif", "other.md#same-2", "none.txt"]
    assert broken_links(page) == expected
