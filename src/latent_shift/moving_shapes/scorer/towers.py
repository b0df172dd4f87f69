"""Entry points of installations from before the encoders moved to `features.py`."""

from latent_shift.moving_shapes.scorer.features import Encoders as clip_features
from latent_shift.moving_shapes.scorer.features import frame_encoders as frame_features

__all__ = ["clip_features", "frame_features"]
