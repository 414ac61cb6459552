"""The grader of an exported task: run as ``python3 grade.py SUBMISSION FOLDER`` by its ``test.sh``.

Beside it lie the task with its labels and the few modules of the kit that grade. It writes ``reward.json``:
the share of the gap between the starter and the best known score that the submission closes on the report
labels, cut to 0 to 1, and 0 where there is no valid submission. Where we fail, it writes nothing and fails.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(submission: Path, out: Path) -> None:
    """Grade a submission and write the reward."""
    sys.path.insert(0, str(HERE))
    from mlagent_lib.core.errors import SubmissionError
    from mlagent_lib.tasks.grading import grade
    from mlagent_lib.tasks.task import load_task

    task = load_task(HERE / "task")
    told = {"reward": 0.0, "valid": 0}
    try:
        score = grade(task, submission.read_bytes() if submission.is_file() else None, "report")
    except SubmissionError as error:
        print(f"the submission is refused: {error.reason}")
    else:
        start, best = task.baseline["report"], task.best["report"]
        told = {"reward": min(1.0, max(0.0, (score - start) / (best - start))), "valid": 1, "score": score}
    (out / "reward.json").write_text(json.dumps(told) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
