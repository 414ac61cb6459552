"""The paper as data: its numbers, what follows from them by arithmetic, and where it contradicts itself.

Five files of one schema hold the numbers of both versions of arXiv 2505.23723 (``main_table.csv``,
``curves.csv``, ``ablations.csv``, ``costs.csv``, ``setup.csv``), one number a row. ``numbers`` reads them and
derives, ``inconsistencies`` compares. ``peers.csv`` holds numbers of other projects: another schema and
another reader, so that they are cited and never enter a statistic.
"""
