"""Measurements of cost: U-Nets and systems side by side in one process, taking turns.

`networks.py` builds the U-Nets that are compared, at real sizes with random weights; `cells.py` measures one
after the other, each figure a file of its own, so that a stopped run goes on. `systems.py` times whole
systems from text to uint8, `training_step.py` says where a step of a recipe spends its time, `floor.py` how
far a pass is from what the machine can do, `full_size.py` what a guided step and training steps need, and
`addition.py` what the shift costs where it stands. `measure.py` and `memory.py` are the rulers of all of
them.
"""
