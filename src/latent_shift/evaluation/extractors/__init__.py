"""The networks that features come from, behind one interface; each a torch module of its own, in a file.

    extractor = make_extractor("i3d", Given(weights=Path("weights/")))
    extractor(clips).features        # uint8 (B, F, H, W, 3) to (N, D)

Weights of others are no part of this package: `published.py` says which files, from whom, with which hash;
`weights.py` finds, checks and reads them without running any code from them.
"""

from latent_shift.evaluation.extractors.known import EXTRACTORS, Given, make_extractor

__all__ = ["EXTRACTORS", "Given", "make_extractor"]
