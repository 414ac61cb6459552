"""A notebook-centric reproduction kit of ML-Agent (arXiv 2505.23723).

The packages are laid out in the order of the story: ``core`` (seeds, artefacts, profiles), ``tasks``,
``environment``, ``reward``, ``agents``, ``training``, ``results``. Imports point one way, from right to
left. Importing this package loads neither torch nor transformers.
"""

__version__ = "0.1.0"
