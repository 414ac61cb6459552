"""Evaluation, figures and pages: reads files that earlier stages wrote, imports no training code.

* what is computed: `evaluation` (trajectories to tasks to overall, differences), `report_scores` (grades of
  the hidden labels), `intervals` (bootstrap), `steps` (single steps), `medals`, `evaluated_agents`; `tabled`
  makes tables of rows
* what is claimed: `claims` (C1 to C7) and the one `judge`; `paper` holds the paper's numbers
* the arms: `arms` (their tables), `arm_figures` (what is drawn of them), `open_questions`,
  `smallest_difference`
* figures: `figures` (all by name: draw, save, redraw), `plots_run`, `plots_arms`, `style`
* pages: `report` of a `run_folder` with its `first_screen`, `browser` of trajectories, `show`, `glossary`
"""
