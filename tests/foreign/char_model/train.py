import numpy as np
from prepare import LETTERS, evaluate_bpc, load

ORDER = 1  # letters that the model looks back
text, _ = load()
counts = np.full((len(LETTERS),) * (ORDER + 1), 0.5)
for place in range(ORDER, len(text)):
    counts[tuple(text[place - ORDER : place + 1])] += 1


def predict(before):
    return counts[tuple(before[len(before) - ORDER :])]


print(f"letters: {len(text)}")
print(f"val_bpc: {evaluate_bpc(predict):.6f}")
