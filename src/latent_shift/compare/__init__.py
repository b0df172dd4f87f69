"""Compare systems on one world with equal budgets: train, sample, score, measure cost, write one table.

`preset.py` reads which rows there are; `plan.py` turns them into runs and stages; `budget.py`, `training.py`,
`scoring.py` and `cost.py` do the work, each piece kept in the comparison's folder; `results.py` reads the
pieces and `page.py` writes the tables. Systems are known by the registry `SYSTEMS` and their `stages` only.
"""
