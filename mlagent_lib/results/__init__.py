"""Evaluation, figures and pages: reads files that earlier stages wrote, imports no training code.

``evaluation`` and ``intervals`` compute, ``figures`` draws, ``show`` and ``report`` make pages to read.
"""
