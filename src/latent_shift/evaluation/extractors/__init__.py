"""The networks that features come from, behind one interface; each a torch module of its own, in a file.

    extractor = make_extractor("i3d", ExtractorOptions(weights=Path("weights/")))
    extractor(clips).features        # uint8 (B, F, H, W, 3) to (N, D)

Weights of others are no part of this package: `weights.py` says which files, from whom, with which hash, and
finds, checks and reads them without running any code from them.
"""

from latent_shift.evaluation.extractors.registry import EXTRACTORS, ExtractorOptions, make_extractor

__all__ = ["EXTRACTORS", "ExtractorOptions", "make_extractor"]
