"""Moving Shapes: an endless generated world of captioned clips whose content is known exactly.

Not a collection on disk: scenes are drawn from a seed and an index, rendered and captioned on the fly.
Use `draw_scene`, `render` and `caption` directly, or `MovingShapes` as a torch dataset.
"""

from latent_shift.data.chance import generator
from latent_shift.data.moving_shapes.captions import (
    ThingWords,
    caption,
    image_caption,
    image_paraphrase,
    paraphrase,
    parse_caption,
    vocabulary,
)
from latent_shift.data.moving_shapes.dataset import MovingShapes, Scenes, World
from latent_shift.data.moving_shapes.render import render
from latent_shift.data.moving_shapes.scene import Scene, Thing, draw_scene, draw_scenes

__all__ = [
    "MovingShapes",
    "Scene",
    "Scenes",
    "Thing",
    "ThingWords",
    "World",
    "caption",
    "draw_scene",
    "draw_scenes",
    "generator",
    "image_caption",
    "image_paraphrase",
    "paraphrase",
    "parse_caption",
    "render",
    "vocabulary",
]
