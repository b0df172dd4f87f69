"""Constants of the emoji world: grounds, styles, motions, ranges of size and place.

Coordinates run from -1 (left, top) to +1 (right, bottom). The motions are those of Moving Shapes but for
bouncing, circling and swinging. The order of `MOTIONS` numbers motions for the held-out rule.
"""

from latent_shift.moving_shapes import constants as shapes

RGB = tuple[int, int, int]

FRAMES = 16
FPS = 8.0

GROUNDS: dict[str, RGB] = {
    "white": (255, 255, 255),
    **shapes.BACKGROUNDS,
    "sky blue": (135, 206, 235),
    "pink": (245, 200, 220),
    "green": (120, 190, 120),
}
DEFAULT_GROUND = "white"  # of half of the clips, and of captions that name none

STYLES = {"fluent": "3D", "noto": "flat", "twemoji": "plain"}  # as captions say it, "in 3D style"
ANIMATED_STYLES = ("fluent", "noto")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")

STILL = "standing still"
MOTIONS = tuple(
    motion
    for motion in shapes.MOTIONS
    if motion in shapes.DIRECTIONS or motion in shapes.SPINNING or motion in ("growing", "shrinking", STILL)
)

# Part of the frame that the picture fills, of plain and of composed clips (before growing or shrinking).
SIZE: shapes.Range = (0.55, 1.0)
COMPOSED_SIZE: shapes.Range = (0.3, 0.6)
OFF_CENTRE = 0.1  # at most, of the centre of a plain clip's picture, on each axis, of half the frame
FILLED = 0.85  # of a picture's side, that its drawing fills at most in most emoji; the rest is margin
