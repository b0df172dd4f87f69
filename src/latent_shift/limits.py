"""Limits of what may be requested, written once: against slips of the keyboard and hostile requests."""

MAX_FRAMES = (
    16384  # frames of a clip: half an hour at 8 a second; no model here was trained on nearly as many
)
MIN_FPS, MAX_FPS = 0.01, 1000.0  # frames a second
MAX_SIDE = 4096  # pixels, height or width
MAX_STEPS = 1000  # denoising steps
MAX_GUIDANCE = 100.0  # guidance scale
MAX_SEED = 2**63 - 1
MAX_COUNT = 10_000  # clips of one prompt in one command
