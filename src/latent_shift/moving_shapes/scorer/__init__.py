"""The Moving Shapes scorer and its protocol: does a clip show what its caption says?

`score_clip` judges one clip from its pixels; `protocol` asks a model for the clips of fixed prompts, scores
them, and scores real clips of the same prompts beside them.
"""

from latent_shift.moving_shapes.scorer.score import ClipScore, SeenThing, ThingScore, recognise, score_clip

__all__ = ["ClipScore", "SeenThing", "ThingScore", "recognise", "score_clip"]
