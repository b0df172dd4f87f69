"""From clips to numbers: what features are made with, their statistics, and both as files.

`settings` says what a feature's value depends on, `moments` streams mean and covariance, `files` keeps both,
`reading` reads the clips of a folder, `passing` takes them through an extractor once. The metrics themselves
are in `metrics/`.
"""
