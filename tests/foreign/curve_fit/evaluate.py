"""Fixed: the error of the curve in curve.json on points that the training does not read."""

import json

import numpy as np

with open("curve.json") as handle:
    curve = [float(value) for value in json.load(handle)]
places = np.linspace(-1.9, 1.9, 39)
print(f"mse: {np.mean((np.polyval(curve, places) - np.sin(2 * places)) ** 2):.6f}")
