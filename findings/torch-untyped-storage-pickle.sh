#!/usr/bin/env bash
# PyTorch: pickle writes an UntypedStorage and cannot read it back; torch.save gives back another type.
# A tensor goes through both unchanged. Exits non-zero when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import pickle

import torch

print("torch", torch.__version__)
tensor = torch.arange(4.0)
storage = tensor.untyped_storage()

written = pickle.dumps(storage)
print("pickle.dumps(UntypedStorage):", len(written), "bytes, no error")
try:
    said = f"a {type(pickle.loads(written)).__name__}"
except AttributeError as error:
    said = f"AttributeError: {error}"
print("pickle.loads:", said)

file = io.BytesIO()
torch.save(storage, file)
file.seek(0)
loaded = type(torch.load(file, weights_only=False)).__name__
print("torch.save and torch.load of an UntypedStorage: a", loaded)

same = torch.equal(tensor, pickle.loads(pickle.dumps(tensor)))
print("a tensor through pickle:", "the same" if same else "another")
expected = said.startswith("AttributeError") and "dtype" in said and loaded == "TypedStorage" and same
raise SystemExit(0 if expected else "the behaviour has changed")
PYTHON
