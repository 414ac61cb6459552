"""Tiny downloads of the paper's 19 tasks, with the file names, folders and columns of the real ones.

The layouts are those of the competitions' data pages, of MLE-bench's preparation scripts, of the page of
cifar-10 and of the loader of the Open Graph Benchmark. The contents are random.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mlagent_lib.tasks.paper.recipes import Recipe

WORDS = (
    "the", "sea", "old", "night", "horror", "king", "moon", "dark", "sleep", "city", "stone", "voice",
    "dream", "house", "wind", "blood",
)  # fmt: skip
TRAIN_ONLY = ("test.csv", "sample_submission.csv")


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def csv_bytes(table: pd.DataFrame, **options) -> bytes:
    return table.to_csv(index=False, **options).encode()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def picture_bytes(array: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def photo(label: int, rng: np.random.Generator, shape=(40, 60, 3)) -> bytes:
    """Return a picture that is mostly brighter for higher labels."""
    light = np.clip(40 * (label % 4) + rng.integers(-40, 41), 0, 160)
    return picture_bytes((rng.integers(0, 90, shape) + light).astype(np.uint8))


def texts(labels: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Return different texts; each holds a word that goes with its label."""
    return [
        f"{WORDS[label % 4]} no{at} " + " ".join(rng.choice(WORDS[4:], 6)) for at, label in enumerate(labels)
    ]


def _cactus() -> dict[str, bytes]:
    rng, n = draws(1), 60
    table = pd.DataFrame({"id": [f"{i:032x}.jpg" for i in range(n)], "has_cactus": np.arange(n) % 2})
    pictures = {
        f"train/{name}": photo(label, rng, (32, 32, 3)) for name, label in table.itertuples(index=False)
    }
    return {
        "train.csv": csv_bytes(table), "train.zip": zip_bytes(pictures),
        "test.zip": zip_bytes({"test/a.jpg": b"x"}), "sample_submission.csv": b"id,has_cactus\na.jpg,0.5\n",
    }  # fmt: skip


def _dogs() -> dict[str, bytes]:
    rng = draws(2)
    pictures = {
        f"train/{kind}.{i}.jpg": photo(k, rng) for k, kind in enumerate(("cat", "dog")) for i in range(30)
    }
    return {
        "train.zip": zip_bytes(pictures), "test.zip": zip_bytes({"test/1.jpg": photo(0, rng)}),
        "sample_submission.csv": b"id,label\n1,0.5\n",
    }  # fmt: skip


def _plant() -> dict[str, bytes]:
    rng, n = draws(3), 80
    kinds = ["healthy", "multiple_diseases", "rust", "scab"]
    table = pd.DataFrame(np.eye(4, dtype=int)[np.arange(n) % 4], columns=kinds)
    table.insert(0, "image_id", [f"Train_{i}" for i in range(n)])
    files = {f"images/Train_{i}.jpg": photo(i % 4, rng) for i in range(n)}
    return files | {
        "images/Test_0.jpg": photo(0, rng),
        "train.csv": csv_bytes(table),
        "test.csv": b"image_id\n",
    }


def _home() -> dict[str, bytes]:
    rng, n = draws(4), 80
    table = pd.DataFrame({
        "Id": np.arange(1, n + 1), "MSSubClass": 60, "LotFrontage": rng.normal(70, 9, n).round(1),
        "LotArea": rng.integers(2_000, 20_000, n), "Alley": np.where(rng.random(n) < 0.5, "Grvl", None),
        "OverallQual": rng.integers(1, 11, n), "YearBuilt": rng.integers(1900, 2010, n),
    })  # fmt: skip
    table.loc[::7, "LotFrontage"] = np.nan
    table["SalePrice"] = 20_000 * table["OverallQual"] + table["LotArea"]
    return {"train.csv": csv_bytes(table, na_rep="NA"), "test.csv": b"Id\n", "data_description.txt": b"x",
            "sample_submission.csv": b"Id,SalePrice\n"}  # fmt: skip


def _titanic() -> dict[str, bytes]:
    rng, n = draws(5), 120
    group = np.repeat(np.arange(1, n // 2 + 1), 2)
    table = pd.DataFrame({
        "PassengerId": [f"{g:04d}_{i % 2 + 1:02d}" for i, g in enumerate(group)],
        "HomePlanet": rng.choice(["Earth", "Europa", "Mars"], n), "CryoSleep": rng.random(n) < 0.4,
        "Cabin": [f"B/{i}/P" for i in range(n)], "Destination": "TRAPPIST-1e",
        "Age": rng.integers(1, 80, n), "VIP": False, "RoomService": rng.integers(0, 900, n),
        "FoodCourt": rng.integers(0, 900, n), "ShoppingMall": 0.0, "Spa": rng.integers(0, 900, n),
        "VRDeck": 0.0, "Name": [f"No {i}" for i in range(n)],
    })  # fmt: skip
    table.loc[::9, ["Age", "HomePlanet"]] = np.nan
    table["Transported"] = (table["Spa"] < 450) ^ (rng.random(n) < 0.15)
    return {"train.csv": csv_bytes(table), "test.csv": b"PassengerId\n", "sample_submission.csv": b"x\n"}


def _nomad() -> dict[str, bytes]:
    rng, n = draws(6), 60
    table = pd.DataFrame({"id": np.arange(1, n + 1), "spacegroup": rng.choice([33, 194, 227], n)})
    table["number_of_total_atoms"] = 80.0
    for name in ("percent_atom_al", "percent_atom_ga", "percent_atom_in"):
        table[name] = rng.random(n).round(4)
    for name in (
        "lattice_vector_1_ang",
        "lattice_vector_2_ang",
        "lattice_vector_3_ang",
        "lattice_angle_alpha_degree",
        "lattice_angle_beta_degree",
        "lattice_angle_gamma_degree",
    ):
        table[name] = (rng.random(n) * 90).round(4)  # fmt: skip
    table["formation_energy_ev_natom"] = (table["percent_atom_al"] / 3).round(4)
    table["bandgap_energy_ev"] = (table["percent_atom_in"] * 4 + rng.random(n)).round(4)
    return {
        "train.csv.zip": zip_bytes({"train.csv": csv_bytes(table)}),
        "test.csv.zip": zip_bytes({"test.csv": b"id\n"}),
        "train.zip": zip_bytes({f"train/{i}/geometry.xyz": b"#" for i in range(1, 4)}),
        "test.zip": zip_bytes({"test/1/geometry.xyz": b"#"}), "sample_submission.csv.zip": zip_bytes({}),
    }  # fmt: skip


def _feedback() -> dict[str, bytes]:
    rng, n = draws(7), 60
    labels = np.arange(n) % 4
    table = pd.DataFrame({"text_id": [f"{i:012X}" for i in range(n)], "full_text": texts(labels, rng)})
    for name in ("cohesion", "syntax", "vocabulary", "phraseology", "grammar", "conventions"):
        table[name] = np.clip(2 + labels / 2 + rng.choice([0, 0.5], n), 1, 5)
    return {"train.csv": csv_bytes(table), "test.csv": b"text_id,full_text\n"}


def _pages() -> dict[str, bytes]:
    rng, clean, dirty = draws(8), {}, {}
    for i in range(12):  # two pages of each text
        sheet = np.full(((26, 30) if i < 6 else (40, 30)), 255, dtype=np.uint8)
        sheet[draws(i // 2).random(sheet.shape) < 0.3] = 10
        clean[f"train_cleaned/{i + 2}.png"] = picture_bytes(sheet, "PNG")
        stain = np.clip(sheet.astype(int) - rng.integers(0, 255, sheet.shape), 0, 255).astype(np.uint8)
        dirty[f"train/{i + 2}.png"] = picture_bytes(stain, "PNG")
    return {
        "train.zip": zip_bytes(dirty),
        "train_cleaned.zip": zip_bytes(clean),
        "test.zip": zip_bytes({"test/1.png": b"x"}),
        "sampleSubmission.csv.zip": zip_bytes({}),
    }


def _leaf() -> dict[str, bytes]:
    rng, kinds = draws(9), ["Acer_Capillipes", "Acer_Circinatum", "Quercus_Alba", "Tilia_Tomentosa"]
    species = np.repeat(np.arange(4), 10)
    table = pd.DataFrame({"id": np.arange(1, 41) * 3, "species": [kinds[k] for k in species]})
    columns = {f"{part}{i}": 0.01 * species + rng.random(40) / 90
               for part in ("margin", "shape", "texture") for i in range(1, 65)}  # fmt: skip
    table = pd.concat([table, pd.DataFrame(columns).round(6)], axis=1)
    pictures = {f"images/{i}.jpg": photo(k, rng, (50, 30)) for i, k in zip(table["id"], species, strict=True)}
    pictures["images/2.jpg"] = photo(0, rng, (50, 30))  # of the competition's test set
    return {"train.csv.zip": zip_bytes({"train.csv": csv_bytes(table)}), "images.zip": zip_bytes(pictures),
            "test.csv.zip": zip_bytes({"test.csv": b"id\n"})}  # fmt: skip


def iceberg_records() -> list[dict]:
    rng = draws(10)
    return [
        {
            "id": f"{i:08x}", "inc_angle": "na" if i % 9 == 0 else 35.0 + i / 100, "is_iceberg": i % 2,
            "band_1": (rng.normal(-20 + 6 * (i % 2), 2, 5625)).round(2).tolist(),
            "band_2": (rng.normal(-25, 2, 5625)).round(2).tolist(),
        }
        for i in range(40)
    ]  # fmt: skip


def _iceberg() -> dict[str, bytes]:
    # The real archive holds train.json.7z with data/processed/train.json: see test_a_7z_needs_py7zr.
    return {"data/processed/train.json": json.dumps(iceberg_records()).encode()}


def _whale() -> dict[str, bytes]:
    rng, rows = draws(11), []
    for whale in range(24):
        rows += [f"w_{whale:07x}"] * (1 + whale % 4)
    rows += ["new_whale"] * 12
    table = pd.DataFrame({"Image": [f"{i:08x}.jpg" for i in range(len(rows))], "Id": rows})
    pictures = {f"train/{name}": photo(len(who) + i, rng, (30, 50)) for i, (name, who) in
                enumerate(table.itertuples(index=False))}  # fmt: skip
    return pictures | {
        "train.csv": csv_bytes(table),
        "test/00.jpg": photo(0, rng),
        "sample_submission.csv": b"x",
    }


def _essays() -> dict[str, bytes]:
    rng, n = draws(12), 90
    score = 1 + np.arange(n) % 6
    table = pd.DataFrame(
        {"essay_id": [f"{i:07x}" for i in range(n)], "full_text": texts(score, rng), "score": score}
    )
    return {"train.csv": csv_bytes(table), "test.csv": b"essay_id,full_text\n"}


def _insults() -> dict[str, bytes]:
    rng, n = draws(13), 60
    label = np.arange(n) % 2
    comments = [f'"{text}\\n"' for text in texts(label, rng)]
    label = np.where(rng.random(n) < 0.2, 1 - label, label)  # a few wrong labels
    table = pd.DataFrame({"Insult": label, "Date": "20120618192155Z", "Comment": comments})
    table.loc[::5, "Date"] = np.nan
    return {"train.csv": csv_bytes(table), "test.csv": b"id,Date,Comment\n", "test_with_solutions.csv": b"x",
            "impermium_verification_set.csv": b"x", "sample_submission_null.csv": b"x"}  # fmt: skip


def _spooky() -> dict[str, bytes]:
    rng, n = draws(14), 90
    label = np.arange(n) % 3
    table = pd.DataFrame({"id": [f"id{i:05d}" for i in range(n)], "text": texts(label, rng),
                          "author": np.array(["EAP", "HPL", "MWS"])[label]})  # fmt: skip
    return {"train.zip": zip_bytes({"train.csv": csv_bytes(table)}),
            "test.zip": zip_bytes({"test.csv": b"id\n"}), "sample_submission.zip": zip_bytes({})}  # fmt: skip


def _jigsaw() -> dict[str, bytes]:
    rng, n = draws(15), 120
    label = np.arange(n) % 4
    table = pd.DataFrame({"id": [f"{i:016x}" for i in range(n)], "comment_text": texts(label, rng)})
    for at, name in enumerate(("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")):
        table[name] = (label == at % 4).astype(int)
    return {f"{name}.zip": zip_bytes({name: content}) for name, content in (
        ("train.csv", csv_bytes(table)), ("test.csv", b"id,comment_text\n"), ("test_labels.csv", b"id\n"),
        ("sample_submission.csv", b"id\n"))}  # fmt: skip


def _patent() -> dict[str, bytes]:
    rng, n = draws(16), 80
    score = np.arange(n) % 5 / 4
    anchors = rng.choice(["abatement", "acid absorption", "base plate"], n)
    phrases = [
        f"{a if s > 0.5 else WORDS[i % 16]} device {i}"
        for i, (a, s) in enumerate(zip(anchors, score, strict=True))
    ]
    table = pd.DataFrame({"id": [f"{i:016x}" for i in range(n)], "anchor": anchors, "target": phrases,
                          "context": "A47", "score": score})  # fmt: skip
    return {"train.csv": csv_bytes(table), "test.csv": b"id,anchor,target,context\n"}


def _tabular() -> dict[str, bytes]:
    rng, n = draws(17), 120
    table = pd.DataFrame({"Id": np.arange(n), "Elevation": rng.integers(1800, 3900, n),
                          "Aspect": rng.integers(0, 360, n), "Slope": rng.integers(0, 60, n)})  # fmt: skip
    for i in range(1, 41):
        table[f"Soil_Type{i}"] = (rng.random(n) < 0.05).astype(int)
    table["Cover_Type"] = np.select([table["Elevation"] < 2500, table["Elevation"] < 3200], [3, 2], 1)
    table.loc[::6, "Cover_Type"] = rng.integers(1, 4, len(table.loc[::6]))
    table.loc[7, "Cover_Type"] = 5  # the real data have this class once
    return {"train.csv": csv_bytes(table), "test.csv": b"Id\n", "sample_submission.csv": b"Id,Cover_Type\n"}


def _gz(table: np.ndarray, kind: str = "%d") -> bytes:
    buffer = io.StringIO()
    np.savetxt(buffer, table, delimiter=",", fmt=kind)
    return gzip.compress(buffer.getvalue().encode())


def _graph() -> dict[str, bytes]:
    rng, n = draws(18), 100
    label = np.arange(n) % 5
    features = rng.normal(0, 1, (n, 128)) + label[:, None]
    edges = rng.integers(0, n, (300, 2))
    sets = {"train": np.arange(0, 50), "valid": np.arange(50, 70), "test": np.arange(70, 100)}
    files = {
        "node-feat": _gz(features, "%.6f"), "node-label": _gz(label), "edge": _gz(edges),
        "node_year": _gz(np.full(n, 2015)), "num-node-list": _gz(np.array([n])),
        "num-edge-list": _gz(np.array([300])),
    }  # fmt: skip
    made = {f"arxiv/raw/{name}.csv.gz": content for name, content in files.items()}
    made |= {f"arxiv/split/time/{name}.csv.gz": _gz(nodes) for name, nodes in sets.items()}
    return made | {"arxiv/mapping/README.md": b"x", "arxiv/RELEASE_v1.txt": b""}


def _batch(rng: np.random.Generator, n: int) -> bytes:
    label = np.arange(n, dtype=np.uint8) % 10
    pixels = (rng.integers(0, 120, (n, 3072)) + 12 * label[:, None]).astype(np.uint8)
    return np.column_stack([label, pixels]).tobytes()


def _cifar() -> dict[str, bytes]:
    rng = draws(19)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {f"data_batch_{i}.bin": _batch(rng, 20) for i in range(1, 6)} | {
        "test_batch.bin": _batch(rng, 40)
    }
    files["batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


CONTENTS = {
    "cifar-10": _cifar,
    "aerial-cactus-identification": _cactus,
    "dogs-vs-cats-redux": _dogs,
    "plant-pathology-2020-fgvc7": _plant,
    "home-data-for-ml-course": _home,
    "spaceship-titanic": _titanic,
    "nomad2018": _nomad,
    "feedback-prize-english-language-learning": _feedback,
    "ogbn-arxiv": _graph,
    "denoising-dirty-documents": _pages,
    "leaf-classification": _leaf,
    "statoil-iceberg-classifier": _iceberg,
    "whale-categorization-playground": _whale,
    "learning-agency-lab-automated-essay-scoring-2": _essays,
    "detecting-insults-in-social-commentary": _insults,
    "spooky-author-identification": _spooky,
    "jigsaw-toxic-comment-classification": _jigsaw,
    "us-patent-phrase-to-phrase-matching": _patent,
    "tabular-playground-series-dec-2021": _tabular,
}


def archive_bytes(found: Recipe, contents: dict[str, bytes] | None = None) -> bytes:
    """Return the archive that a download of the task gives."""
    contents = CONTENTS[found.name]() if contents is None else contents
    if not found.url.endswith(".tar.gz"):
        return zip_bytes(contents)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_archive(found: Recipe, folder: Path, contents: dict[str, bytes] | None = None) -> Path:
    """Write the archive under the name that the download has and return its path."""
    name = found.url.rsplit("/", 1)[-1] if found.url else f"{found.slug}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(archive_bytes(found, contents))
    return folder / name
