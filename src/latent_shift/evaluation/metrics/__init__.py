"""Figures from features and pixels: pure functions of arrays, one family a file.

`frechet` (FID, FVD), `kernel` (KID, KVD), `inception_score`, `similarity` (CLIPSIM), `pixels` (flicker,
motion), `bootstrap` (intervals of any of them). What features are, and with which settings, they do not know.
"""
