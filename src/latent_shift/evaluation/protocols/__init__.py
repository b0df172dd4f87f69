"""Protocols: fixed prompts, clips made of them once, and every figure that is measured on them.

`prompts` makes the lists of MSR-VTT and UCF-101, `generation` makes and keeps the clips, `measuring` gives
the figures; `moving_shapes_report` is the generated world's own.
"""
