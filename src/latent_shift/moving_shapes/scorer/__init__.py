"""The Moving Shapes scorer: does a clip show what its caption describes?

`score_clip` judges one clip from its pixels in steps: `segment` finds background and objects, `tracking`
their position, size and rotation, `shape_match` and `motion_match` name shape and motion. `features` gives
the same measurements, and learned embeddings, to distances and scores of whole sets of clips.
"""

from latent_shift.moving_shapes.scorer.score import (
    ClipScore,
    DetectedObject,
    ObjectScore,
    recognise,
    score_clip,
)

__all__ = ["ClipScore", "DetectedObject", "ObjectScore", "recognise", "score_clip"]
