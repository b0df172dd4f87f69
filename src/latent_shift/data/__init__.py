"""Clips and captions: the generated Moving Shapes world, and readers of real video collections.

A room of data only. It knows nothing of models, pipelines or training: it hands out uint8 frames
(F, H, W, 3) with the sentence that describes them. Import what you need from the submodule that holds it.
"""
