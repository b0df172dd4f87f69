"""Moving Shapes: an endless generated world of captioned clips whose content is known exactly.

Not a collection on disk: scenes are drawn from a seed and an index, rendered and captioned on the fly.
Use `draw_scene`, `render` and `caption` directly, or `MovingShapes` as a torch dataset.
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
from latent_shift.moving_shapes.scene import Object, Scene, draw_scene, draw_scenes

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
