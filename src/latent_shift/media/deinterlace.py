"""Interlaced films to whole frames: what moves is not a comb of two moments.

An interlaced frame is two fields, the odd and the even lines, of two moments. FFmpeg's `bwdif` keeps the
first field and makes the lines between of it and of the fields before and after: as many frames as before, at
the times as before. A progressive frame of such a film passes unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av
from av.filter import Graph

_OPTIONS = "mode=send_frame:parity=auto:deint=interlaced"


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The frames, from the first interlaced one on deinterlaced; others as they come, and at once.

    A frame that comes first, after a seek, is made of its own field only: one more in front of it makes it
    the same as when all are decoded.
    """
    graph: Graph | None = None
    shape: tuple[Any, ...] = ()
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is not None and shape != _shape(frame):
            yield from _ready(graph, last=True)
            graph = None
        if graph is None:
            graph, shape = _graph(frame), _shape(frame)
        graph.vpush(frame)
        yield from _ready(graph)
    if graph is not None:
        yield from _ready(graph, last=True)


def _shape(frame: av.VideoFrame) -> tuple[Any, ...]:
    return frame.width, frame.height, frame.format.name


def _graph(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1  # as for the conversion to RGB
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add("bwdif", _OPTIONS), graph.add("buffersink"))
    graph.configure()
    return graph


def _ready(graph: Graph, *, last: bool = False) -> Iterator[av.VideoFrame]:
    """The frames that are done; after the last one all."""
    if last:
        graph.vpush(None)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
