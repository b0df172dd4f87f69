"""Constants of the Moving Shapes world: colours, shapes, motions, parameter ranges and their rules.

Coordinates run from -1 (left, top) to +1 (right, bottom), lengths are in the same unit, time t runs from 0
(first frame) to 1 (last frame). Names are spelled as in captions. The order of the tables numbers colours,
shapes and motions for the held-out rule.
"""

RGB = tuple[int, int, int]

FRAMES = 16
SIZE = 64
FPS = 8

BACKGROUNDS: dict[str, RGB] = {
    "black": (15, 15, 15),
    "gray": (120, 120, 120),
    "navy": (20, 25, 80),
    "brown": (90, 60, 35),
    "teal": (10, 75, 75),
    "maroon": (80, 15, 30),
}

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "green": (40, 180, 70),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
    "white": (240, 240, 240),
    "cyan": (60, 200, 210),
    "pink": (245, 140, 185),
}

DRAWN_SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = tuple(f"digit {word}" for word in NUMBER_WORDS)
SHAPES = DRAWN_SHAPES + DIGITS

# Direction of travel: the sign of x and of y.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "moving left": (-1, 0),
    "moving right": (1, 0),
    "moving up": (0, -1),
    "moving down": (0, 1),
    "moving up and to the left": (-1, -1),
    "moving up and to the right": (1, -1),
    "moving down and to the left": (-1, 1),
    "moving down and to the right": (1, 1),
}
# +1 turns clockwise as seen on the screen.
CIRCLING = {"circling clockwise": 1, "circling counterclockwise": -1}
SPINNING = {"spinning clockwise": 1, "spinning counterclockwise": -1}

MOTIONS = (
    *DIRECTIONS,
    "bouncing",
    *CIRCLING,
    *SPINNING,
    "growing",
    "shrinking",
    "swinging from side to side",
    "standing still",
)

Range = tuple[float, float]

# Radius by size word; "" is the medium size, which captions do not name.
RADIUS: dict[str, Range] = {"small": (0.14, 0.18), "": (0.20, 0.28), "large": (0.32, 0.40)}
SPEED = {"": 1.0, "slowly": 0.5, "quickly": 1.5}

STRAIGHT_TRAVEL: Range = (0.8, 1.1)
DIAGONAL_TRAVEL: Range = (0.6, 0.9)
BOUNCES = (3, 4)
BOUNCE_HEIGHT: Range = (0.6, 1.0)
FLOOR = 0.6
CIRCLING_RADIUS: Range = (0.3, 0.45)
SPIN_TURNS: Range = (0.75, 1.25)
SWING: Range = (0.35, 0.5)
SWING_PERIODS = 1.5
# Of the radius that was drawn, by size word: least and greatest, where a motion changes the size.
GROWTH: dict[str, Range] = {"small": (0.5, 1.7), "": (0.5, 1.7), "large": (0.45, 1.3)}
CHANGES_OF_SIZE = ("growing", "shrinking")

MIN_COLOUR_DISTANCE = 110.0  # Euclidean, RGB from 0 to 255
MAX_OCCLUSION = 0.2  # of the lower object's area
TRAIN_GLYPHS = 0.8  # share of the handwritten digits; the rest is for testing

# Rotation leaves circles and rings unchanged, so they never spin.
ROTATION_INVARIANT = ("circle", "ring")
# Rotation by 1 / SYMMETRY of a full turn leaves the shape unchanged.
SYMMETRY = {"square": 4, "cross": 4, "star": 5, "triangle": 3}


def is_digit(shape: str) -> bool:
    """Whether a shape is one of the ten handwritten digits."""
    return shape in DIGITS


def takes_speed(motion: str) -> bool:
    """Whether a motion can have a speed word: travels, spins and circling only."""
    return motion in DIRECTIONS or motion in SPINNING or motion in CIRCLING


def motion_kind(motion: str) -> str:
    """Return a motion without its direction: travelling, circling, spinning, or its own name."""
    for kind, motions in (("travelling", DIRECTIONS), ("circling", CIRCLING), ("spinning", SPINNING)):
        if motion in motions:
            return kind
    return motion


def can_move(shape: str, motion: str) -> bool:
    """Whether a shape can show a motion: every pair but a spinning circle or ring."""
    return not (shape in ROTATION_INVARIANT and motion in SPINNING)


def stands_out(colour: str, background: str) -> bool:
    """Whether a colour is at least 110 (Euclidean RGB) away from a background."""
    pairs = zip(COLOURS[colour], BACKGROUNDS[background], strict=True)
    return sum((a - b) ** 2 for a, b in pairs) >= MIN_COLOUR_DISTANCE**2


def is_held_out(colour: int, shape: int, motion: int) -> bool:
    """Whether a combination is excluded from training; arguments are indices into the three tables."""
    return (3 * colour + 5 * shape + 7 * motion) % 10 == 0


def names_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether a combination, given by its names, is excluded from training."""
    return is_held_out(list(COLOURS).index(colour), SHAPES.index(shape), MOTIONS.index(motion))
