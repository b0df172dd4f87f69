"""Moving Shapes: a generated world of captioned clips with exactly known contents, and its scorer.

Nothing is stored on disk: scenes are sampled from a seed and an index, rendered and captioned as needed. Use
`draw_scene`, `render` and `caption` directly, or `MovingShapes` as a torch dataset. General code never
imports this package; it adds itself through entry points, as a data source ("moving-shapes") and as
extractors.
"""

from latent_shift.moving_shapes.captions import (
    ObjectWords,
    caption,
    image_caption,
    image_paraphrase,
    paraphrase,
    parse_caption,
    vocabulary,
)
from latent_shift.moving_shapes.dataset import MovingShapes, Scenes, WorldConfig
from latent_shift.moving_shapes.render import render
from latent_shift.moving_shapes.sampling import draw_scene, draw_scenes
from latent_shift.moving_shapes.scene import Object, Scene

__all__ = [
    "MovingShapes",
    "Object",
    "ObjectWords",
    "Scene",
    "Scenes",
    "WorldConfig",
    "caption",
    "draw_scene",
    "draw_scenes",
    "image_caption",
    "image_paraphrase",
    "paraphrase",
    "parse_caption",
    "render",
    "vocabulary",
]
