import csv
import os

here = "../env"


def write(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


write(f"{here}/train.csv", ["x", "y"], [(x, 3 * x + 1) for x in range(0, 12, 2)])
hidden = list(enumerate(range(1, 10, 2)))
write(f"{here}/test.csv", ["id", "x"], hidden)
write("answer.csv", ["id", "y"], [(number, 3 * x + 1) for number, x in hidden])
os.makedirs(f"{here}/pictures", exist_ok=True)
for number in range(3):
    with open(f"{here}/pictures/{number}.bin", "wb") as file:
        file.write(bytes(range(256)) * 300)
print(f"{len(hidden)} springs are hidden")
