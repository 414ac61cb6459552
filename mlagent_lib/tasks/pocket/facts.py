"""The short facts that a task card of the suite may state: one vocabulary for cards and for the corpus."""

_COUNTS = ("two", "three", "four", "five", "six", "eight", "ten", "twelve", "twenty", "thirty")

FACTS = (
    *(f"{count} classes" for count in _COUNTS), *(f"{count} outputs" for count in _COUNTS), "64 outputs",
    "balanced classes", "imbalanced classes", "few rows per class", "few rows", "noisy", "a few wrong labels",
    "missing values", "categories", "numbers only", "useless columns", "columns on very different scales",
    "correlated columns", "columns that act together", "skewed columns", "outliers",
    "an angle in degrees",
    "skewed target", "very skewed target", "count target", "ordered target", "noisy target",
    "8 by 8 pixels", "10 by 10 pixels", "12 by 12 pixels", "clean background", "varying exposure",
    "varying position",
    "strong texture", "spots at any place", "noise and dead pixels", "slight turns", "speckle",
    "objects turned at random", "small details",
    "very short texts", "short texts", "long texts", "misspelt words", "disguised words", "rare words",
    "pairs of phrases", "technical terms", "one class is rare",
    "most links stay in a class", "noisy features", "few links", "many nodes",
)
