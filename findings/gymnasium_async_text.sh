#!/usr/bin/env bash
# Gymnasium 1.4.0: an AsyncVectorEnv whose observations are texts shows the same text for ever.
#
# Its shared memory is on by default. For arrays the batch that the reader holds is a view of that memory; for a
# Text space it is a tuple made once, while the memory is still zeros, and no later reset or step makes it anew.
# Each observation is the first character of the set, `max_length` times. No error and no warning. All texts
# here are members of the space. With shared_memory=False, and in a SyncVectorEnv, the right texts come.
#
# Exits with 0 where this is so, with 1 where it is not any more.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > "$work/texts.py" <<'PYTHON'
import string
import sys

import gymnasium
from gymnasium.spaces import Text


class Counting(gymnasium.Env):
    """Says start, then one, two, three: each a member of its observation space."""

    observation_space = Text(5, charset=string.ascii_lowercase)
    action_space = Text(5, charset=string.ascii_lowercase)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.said = iter(("one", "two", "three"))
        return "start", {}

    def step(self, action):
        return next(self.said), 0.0, False, False, {}


def seen(envs):
    texts = [envs.reset(seed=0)[0], *(envs.step(("go", "go"))[0] for _ in range(2))]
    assert all(Counting.observation_space.contains(text) for pair in texts for text in pair)
    envs.close()
    return [first for first, _ in texts]


if __name__ == "__main__":
    print("gymnasium", gymnasium.__version__)
    two = [Counting, Counting]
    found = {
        "async, shared memory (default)": seen(gymnasium.vector.AsyncVectorEnv(two)),
        "async, shared_memory=False": seen(gymnasium.vector.AsyncVectorEnv(two, shared_memory=False)),
        "sync": seen(gymnasium.vector.SyncVectorEnv(two)),
    }
    for name, texts in found.items():
        print(f"{name}: {texts}")
    first, *others = found.values()
    sys.exit(not (first == ["aaaaa"] * 3 and others == [["start", "one", "two"]] * 2))
PYTHON
"$work/env/bin/python" "$work/texts.py"
