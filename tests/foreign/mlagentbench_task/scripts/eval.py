import csv
import os
import sys

sys.path.append("../env")


def read(path):
    with open(path) as file:
        return {row["id"]: float(row["y"]) for row in csv.DictReader(file)}


def get_score(submission_folder="../env"):
    submission = read(os.path.join(submission_folder, "submission.csv"))
    answer = read(os.path.join(os.path.dirname(__file__), "answer.csv"))
    if submission.keys() != answer.keys():
        raise ValueError(f"the ids must be {sorted(answer)}")
    return sum(abs(submission[key] - answer[key]) for key in answer) / len(answer)


if __name__ == "__main__":
    print(get_score())
