"""Clips and captions: readers of video collections, datasets and batch samplers.

Hands out uint8 frames (F, H, W, 3) with captions. Knows no pipeline and no training, and runs no model: what
needs one is given a callable. Import what you need from the submodule that holds it.
"""
