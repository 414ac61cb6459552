#!/usr/bin/env bash
# pandas' read_json, asked for nullable integers (dtype_backend or dtype="Int64"), gives an Int64 column whose
# values are not those of the file: where a cell of the column is null, all are read as floats and then cast,
# so ids above 2**53 (of posts, hashes) move to the nearest float, two of them onto one. Without a null they
# are right. One chooses these types to keep integers beside missing values; the dtype says that this was
# done, no error or warning is given, and a frame does not survive pandas' own to_json. read_csv with the same
# argument, and read_json with engine="pyarrow", are exact. Seen with pandas 3.1.1.
# Exits 0 while pandas behaves like this, else 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1
"$folder/venv/bin/python" -W error - <<'PYTHON'
import sys
from io import BytesIO, StringIO

import pandas as pd

print("pandas", pd.__version__)
ids = [1790000000000000001, 1790000000000000003]
full = pd.DataFrame({"answers": pd.array(ids, dtype="Int64")})
holed = pd.DataFrame({"answers": pd.array([*ids, None], dtype="Int64")})
nullable = {"dtype_backend": "numpy_nullable"}
lines = holed.to_json(orient="records", lines=True)
print("the file:                        ", lines.split())
readings = {
    "read_json, nullable, no null": pd.read_json(StringIO(full.to_json()), **nullable),
    "read_json, nullable": pd.read_json(StringIO(holed.to_json()), **nullable),
    "read_json, nullable, lines": pd.read_json(StringIO(lines), lines=True, **nullable),
    "read_json, pyarrow's types": pd.read_json(StringIO(lines), lines=True, dtype_backend="pyarrow"),
    "read_json, dtype Int64": pd.read_json(StringIO(lines), lines=True, dtype={"answers": "Int64"}),
    "read_json, pyarrow's engine": pd.read_json(
        BytesIO(lines.encode()), lines=True, engine="pyarrow", **nullable),
    "read_csv, nullable": pd.read_csv(
        StringIO(holed.to_csv(index=False)), skip_blank_lines=False, **nullable),
}
seen = []
for name, frame in readings.items():
    column = frame["answers"]
    values = [int(value) for value in column.dropna()]
    seen.append((str(column.dtype), values == ids))
    print(f"{name:29}: {column.dtype}, {values}, {'as written' if values == ids else 'changed'}")
changed = [("Int64", False), ("Int64", False), ("int64[pyarrow]", False), ("Int64", False)]
if seen != [("Int64", True), *changed, ("Int64", True), ("Int64", True)]:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: beside a null, read_json's nullable integers are rounded ones")
PYTHON
