"""Metrics by name: functions of features and pixels, and what makes results of them.

`distances` (FID, FVD, KID, KVD), `scores` (Inception Score, CLIPSIM, flicker, motion) and `intervals`
hold pure functions of arrays, and the metrics built on them; `base` is the interface.
"""

from latent_shift.registry import Registry

_HERE = "latent_shift.evaluation.metrics"
_GENERAL = {
    "fid": f"{_HERE}.distances:fid",
    "kid": f"{_HERE}.distances:kid",
    "fvd": f"{_HERE}.distances:fvd",
    "kvd": f"{_HERE}.distances:kvd",
    "is": f"{_HERE}.scores:InceptionScore",
    "clipsim": f"{_HERE}.scores:ClipSim",
    "flicker": f"{_HERE}.scores:flicker_metric",
    "motion": f"{_HERE}.scores:motion_metric",
}
METRICS = Registry("metric", "latent_shift.metrics", _GENERAL)
DEFAULT_METRICS = tuple(_GENERAL)
