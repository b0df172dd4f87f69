"""Damaged copies of files, by a seeded random generator."""


def damaged(data, draw):
    """A copy that is cut, or in which bytes are changed, added or missing."""
    data, kind = bytearray(data), draw.randrange(4)
    place = draw.randrange(len(data) + 1)
    if kind == 0:
        del data[place:]
    elif kind == 1:
        data[place : place + 1] = draw.randbytes(1)
    elif kind == 2:
        data[place:place] = draw.choice((b"\0", b'"', b"\r", b"\x85", b"\xff\xfe", draw.randbytes(5)))
    else:
        del data[place : place + draw.randrange(1, 9)]
    return bytes(data)
