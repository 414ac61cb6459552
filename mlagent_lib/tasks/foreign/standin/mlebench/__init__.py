"""The few names of MLE-bench that its graders import, for machines without that package.

Written for this kit after the behaviour of MLE-bench (MIT). The real package is found first where it is
installed. It covers the graders of the fifteen competitions of MLE-bench that the paper uses, and of those
whose answers are run lengths; a grader that needs more fails with Python's ImportError, which names what is
missing.
"""
