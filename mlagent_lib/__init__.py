"""A notebook-centric reproduction kit of ML-Agent (arXiv 2505.23723). The map, in the order of the story:

* ``core``: seeds, files, stages and their manifests, profiles, the arms as data
* ``tasks``: task folders, metrics, grading; the pocket suite, tables of one's own, the paper's, foreign ones
* ``environment``: workspace, actions, coder, isolated execution: one step
* ``reward``: the reward of a step, pure
* ``agents``: prompts, policies, ideas, trajectories, search; model servers in ``server``
* ``training``: SFT, step-wise GRPO, the pool of states, model backends, the pocket model
* ``results``: from trajectories to tables, intervals, verdicts on claims, figures and pages
* ``run``: a run: its stages, its notebooks, agents at work, exports, what is published of it
* ``arms``: which arms over which seeds, in which order; an arm is a run with a changed profile
* ``bench``: measurements side by side
* ``sockets``: where trainers of others plug in: OpenEnv, tools for TRL, folders for Harbor
* ``commands``: what ``mlagent`` does, a module each; ``cli`` reads its words
* ``gym``: the tasks as Gymnasium environments

Imports point one way: each line uses those above it only. Importing this package loads nothing heavy.
"""

__version__ = "0.1.0"
