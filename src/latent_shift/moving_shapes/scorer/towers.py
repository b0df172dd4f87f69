"""Entry points of installations from before the encoders moved to `features.py`."""

from latent_shift.moving_shapes.scorer.features import clip_features, frame_features

__all__ = ["clip_features", "frame_features"]
