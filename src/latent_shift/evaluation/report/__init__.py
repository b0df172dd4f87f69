"""Results, kept and shown: columns that say what they were made with, tables, plots, and one page for all.

`model` is what a result file holds, `figures` computes it from measured clips, `tables`, `plots` and `page`
show it. Figures of different settings get different columns by construction.
"""
