#!/usr/bin/env bash
# pandas' to_datetime with dayfirst=True takes ISO dates for year-day-month. On a column of ISO dates it stops at
# the first day above 12 and advises format="mixed" with dayfirst; that reads each cell for itself, so days up to
# 12 change place with the month and the others do not: two readings in one column, no error, no warning.
# A table that joins German and ISO dates is read so. format="ISO8601" and strict formats are right.
# Exits 0 while pandas behaves like this, else 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pandas==3.1.1
"$folder/venv/bin/python" -W error - <<'PYTHON'
import pandas as pd

print("pandas", pd.__version__)
cells = pd.Series(["2023-01-05", "2023-01-31", "05.01.2023"])
iso = cells[:2]


def days(**how):
    return pd.to_datetime(iso, **how).dt.strftime("%d %b %Y").tolist()


print("cells:                            ", cells.tolist())
try:
    alone = str(days(dayfirst=True))
except ValueError as error:
    alone = str(error)
print("dayfirst=True, ISO alone:         ", alone.splitlines()[0])
mixed = pd.to_datetime(cells, format="mixed", dayfirst=True).dt.strftime("%d %b %Y").tolist()
print("format='mixed', dayfirst=True:    ", mixed)
print("format='ISO8601', dayfirst=True:  ", days(format="ISO8601", dayfirst=True))
assert "%Y-%d-%m" in alone and "format='mixed'" in alone, "dayfirst alone behaves differently"
assert mixed == ["01 May 2023", "31 Jan 2023", "05 Jan 2023"], "format='mixed' behaves differently"
assert days(format="ISO8601", dayfirst=True) == ["05 Jan 2023", "31 Jan 2023"], "ISO8601 behaves differently"
PYTHON
