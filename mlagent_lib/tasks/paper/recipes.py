"""The paper's 19 tasks as data: where each comes from, what it asks, and how its labels are cut.

Names, metrics and scores are those of arXiv 2505.23723 (v1 Table 1 and the appendix). Download sizes are
stated only where a source gives them; the rest stays unknown.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from mlagent_lib.core.errors import TaskError

PREFIX = "paper/"
KAGGLE = "https://www.kaggle.com/competitions/"
_RULES = "Kaggle competition data: use and sharing are bound by the competition's rules, which you accept"
_SIZES = "MLE-bench, table of dataset sizes"

NUMBERS = (
    "from sklearn.compose import make_column_transformer\n"
    "from sklearn.impute import SimpleImputer\n"
    "prepare = make_column_transformer((SimpleImputer(), numbers))"
)
SCALED = "from sklearn.preprocessing import StandardScaler\nprepare = StandardScaler()"
SCALED_NUMBERS = NUMBERS + (
    "\nfrom sklearn.preprocessing import StandardScaler\nprepare = make_pipeline(prepare, StandardScaler())"
)
PLAIN = "from sklearn.preprocessing import FunctionTransformer\nprepare = FunctionTransformer()"
WORDS = (
    "from sklearn.feature_extraction.text import CountVectorizer\n"
    "prepare = CountVectorizer(max_features=1000)"
)
TRIGRAMS = (
    "from sklearn.feature_extraction.text import TfidfVectorizer\n"
    'prepare = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), max_features=5000)'
)
LOGISTIC = (
    "from sklearn.linear_model import LogisticRegression\nmodel = LogisticRegression(C=0.01, max_iter=300)"
)
LABELS = (
    "from sklearn.linear_model import LogisticRegression\n"
    "from sklearn.multioutput import MultiOutputClassifier\n"
    "model = MultiOutputClassifier(LogisticRegression(C=0.01, max_iter=300))"
)
RIDGE = "from sklearn.linear_model import Ridge\nmodel = Ridge(alpha=10.0)"
RIDGE_CLASSES = "from sklearn.linear_model import RidgeClassifier\nmodel = RidgeClassifier()"
NEIGHBOURS = (
    "from sklearn.neighbors import KNeighborsClassifier\nmodel = KNeighborsClassifier(n_neighbors=10)"
)
TREE_CLASSES = (
    "from sklearn.tree import DecisionTreeClassifier\n"
    "model = DecisionTreeClassifier(max_depth=5, random_state=0)"
)
TREE = TREE_CLASSES.replace("Classifier", "Regressor")


@dataclass(frozen=True)
class Recipe:
    """One task of the paper.

    Attributes:
        name: As in the paper.
        split: ``held-in`` (training) or ``held-out``.
        modality: ``image``, ``tabular``, ``text`` or ``graph``.
        kind: As in `mlagent_lib.tasks.task.Task`.
        metric: Name of the metric, whose direction `mlagent_lib.tasks.metrics` knows.
        reader: Function of `readers` that turns the files into rows.
        files: Files that are needed, as globs matched from the right.
        archives: Archives inside the download that have to be opened for them.
        id: Column that only names a row; empty to keep all.
        targets: Columns with the answer.
        needs: Other columns that must be there: a missing one means that the layout has changed.
        rename: Names of input columns that the task folder uses, by their name in the download.
        group: Column whose first part (before ``_``) keeps rows together; empty for none.
        stratified: Whether the sets get every class in proportion.
        unseen: Class that stands for all classes without a visible row; empty for none.
        caps: Most visible, feedback and report rows; a smaller set is cut in the same ratio.
        splitting: The rule in words.
        picture: Glob of the picture of a row, with ``{}`` for the value of ``picture_column``.
        picture_column: Column that names the picture.
        side: Pixels to which pictures are brought at preparation; 0 where there are none.
        channels: 3 for colour, 1 for grey.
        data: Data block of the starter.
        model: Model block of the starter.
        description: Two or three sentences for the agent.
        facts: Short facts.
        goal: A target out of reach, as in the paper's requests.
        seconds: Limit of one run.
        memory: Limit in bytes of one run.
        slug: Kaggle's name of the competition; empty for a public download.
        url: Address of a public download.
        md5: Its checksum where the publisher states one.
        size_mb: About how many megabytes are downloaded; None where no source says.
        size_source: Which source says so.
        disk_mb: Free megabytes asked for before a download whose size is unknown: a reserve, not a size.
        work_minutes: About how many minutes the preparation takes after the download.
        paper_metric: The metric in the paper's words.
        paper_init: Score of the initial script, derived from v1 and v2, in the metric's unit; or None.
        paper_best: The paper's ML-Agent, best@8 of v1 Table 1; None where not published.
        licence: What binds the use of the data.
        note: What a user should know beforehand.
    """

    name: str
    split: str
    modality: str
    kind: str
    metric: str
    reader: str
    files: tuple[str, ...]
    targets: tuple[str, ...]
    caps: tuple[int, int, int]
    data: str
    model: str
    description: str
    facts: tuple[str, ...]
    goal: str
    paper_metric: str
    archives: tuple[str, ...] = ()
    id: str = ""
    needs: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    group: str = ""
    stratified: bool = True
    unseen: str = ""
    splitting: str = (
        "cut from the competition's training set, since the labels of its test set are not public"
    )
    picture: str = ""
    picture_column: str = ""
    side: int = 0
    channels: int = 3
    seconds: float = 120.0
    memory: int = 4 << 30
    slug: str = ""
    url: str = ""
    md5: str = ""
    size_mb: float | None = None
    size_source: str = _SIZES
    disk_mb: int = 1000
    work_minutes: int = 1
    paper_init: float | None = None
    paper_best: float | None = None
    licence: str = _RULES
    note: str = ""

    @property
    def page(self) -> str:
        """Return the address of the page that a reader can open."""
        return KAGGLE + self.slug if self.slug else self.url

    @property
    def command(self) -> str:
        """Return the command that prepares the task."""
        return f"mlagent tasks prepare {PREFIX}{self.name}"

    @property
    def paper_task(self) -> str:
        """Return name, metric and table row as the paper has them."""
        where = "v1 Table 1" if self.paper_best is not None else "training task, without a row in v1 Table 1"
        scores = [
            f"{words} {value:g}"
            for words, value in (
                ("initial script, derived,", self.paper_init),
                ("ML-Agent best@8", self.paper_best),
            )
            if value is not None
        ]
        return f"{self.name} ({self.paper_metric}; {', '.join([where, *scores])})"


RECIPES = (
    Recipe(
        "cifar-10", "held-in", "image", "label", "accuracy", "cifar",
        ("data_batch_?.bin", "test_batch.bin", "batches.meta.txt"), ("target",), (20_000, 5_000, 5_000),
        SCALED, RIDGE_CLASSES,
        "Colour pictures of 32 by 32 pixels, each of one of ten things: planes, cars, animals, ships. The "
        "answer is the class, 0 to 9.",
        ("ten classes", "32 by 32 pixels", "colour"), "99.99 %", "accuracy",
        side=32, url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530", size_mb=162, size_source="the publisher's page",
        splitting="visible rows from the five training batches; the official test batch is cut in halves",
        paper_init=0.5148, paper_best=0.8145,
        licence="published for research by A. Krizhevsky (2009) without a licence text; cite the report",
    ),
    Recipe(
        "aerial-cactus-identification", "held-in", "image", "probability", "auc", "pictures",
        ("train.csv", "train/*.jpg"), ("has_cactus",), (9_500, 4_000, 4_000), SCALED, LOGISTIC,
        "Aerial colour pictures of 32 by 32 pixels. The answer is the probability that a columnar cactus "
        "stands in the picture.",
        ("two classes", "32 by 32 pixels", "colour"), "0.9999", "AUC",
        archives=("train.zip",), id="id", picture="train/{}", picture_column="id", side=32,
        slug="aerial-cactus-identification", size_mb=25,
    ),
    Recipe(
        "dogs-vs-cats-redux", "held-in", "image", "probability", "logloss", "named_pictures",
        ("train/*.jpg",), ("animal",), (6_000, 2_000, 2_000), SCALED, LOGISTIC,
        "Photos of cats and dogs. The answer is the probability that a photo shows a dog (1) and not a cat "
        "(0).",
        ("two classes", "colour photos"), "0.001", "logloss",
        archives=("train.zip",), side=64, slug="dogs-vs-cats-redux-kernels-edition", size_mb=850,
        work_minutes=3,
    ),
    Recipe(
        "plant-pathology-2020-fgvc7", "held-in", "image", "probability", "auc", "pictures",
        ("train.csv", "images/Train_*.jpg"), ("healthy", "multiple_diseases", "rust", "scab"),
        (1_093, 364, 364), SCALED, LOGISTIC,
        "Photos of apple leaves. The answer is the probability of each state: healthy, several diseases, "
        "rust, scab. The score is the mean AUC over the four.",
        ("four classes", "one class is rare", "colour photos"), "0.9999", "AUC",
        id="image_id", picture="images/{}.jpg", picture_column="image_id", side=96,
        slug="plant-pathology-2020-fgvc7", size_mb=800, work_minutes=3,
    ),
    Recipe(
        "home-data-for-ml-course", "held-in", "tabular", "regression", "mae", "table",
        ("train.csv",), ("SalePrice",), (876, 292, 292), NUMBERS, TREE,
        "Houses in Ames, Iowa, with some 80 columns on size, age, quality and place. The answer is the sale "
        "price in dollars.",
        ("missing values", "many categories", "skewed target"), "5000", "MAE",
        id="Id", needs=("LotArea", "OverallQual", "YearBuilt"), stratified=False,
        slug="home-data-for-ml-course", disk_mb=100, memory=2 << 30, paper_init=21676, paper_best=18440,
    ),
    Recipe(
        "spaceship-titanic", "held-in", "tabular", "label", "accuracy", "table",
        ("train.csv",), ("Transported",), (5_215, 1_739, 1_739), NUMBERS, TREE_CLASSES,
        "Passengers of a spaceship with cabin, destination, age and spending. PassengerId is gggg_pp: "
        "travelling group and number in it. The answer is whether the passenger was transported (1) or not "
        "(0).",
        ("two classes", "missing values", "categories", "people travel in groups"), "99.99 %", "accuracy",
        needs=("PassengerId", "HomePlanet", "Cabin", "Age"), group="PassengerId",
        splitting="cut from the competition's training set; a travelling group stays in one set",
        slug="spaceship-titanic", disk_mb=100, memory=2 << 30,
    ),
    Recipe(
        "nomad2018", "held-in", "tabular", "multioutput", "rmsle-columns", "table",
        ("train.csv",), ("formation_energy_ev_natom", "bandgap_energy_ev"), (1_440, 480, 480), NUMBERS, TREE,
        "Transparent conductors: composition and lattice of a crystal. The answers are its formation energy "
        "and its band gap in electron volt. The score is the mean of the two root mean squared logarithmic "
        "errors.",
        ("two outputs", "few columns", "skewed targets"), "0.001", "RMSLE",
        archives=("train.csv.zip",), id="id", needs=("spacegroup", "percent_atom_al"), stratified=False,
        slug="nomad2018-predict-transparent-conductors", size_mb=6.2, memory=2 << 30,
        note="the geometry files of the competition are not used",
    ),
    Recipe(
        "feedback-prize-english-language-learning", "held-in", "text", "multioutput", "mcrmse", "table",
        ("train.csv",),
        ("cohesion", "syntax", "vocabulary", "phraseology", "grammar", "conventions"), (2_347, 782, 782),
        WORDS, RIDGE,
        "Essays of pupils who learn English. The answers are six marks from 1 to 5 in steps of a half. The "
        "score is the mean of the six root mean squared errors.",
        ("six outputs", "long texts"), "0.01", "MCRMSE",
        id="text_id", rename=(("full_text", "text"),), stratified=False,
        slug="feedback-prize-english-language-learning", disk_mb=200, memory=2 << 30,
        paper_init=0.683, paper_best=0.5777,
    ),
    Recipe(
        "ogbn-arxiv", "held-in", "graph", "label", "accuracy", "graph",
        ("raw/node-feat.csv.gz", "raw/node-label.csv.gz", "raw/edge.csv.gz", "time/train.csv.gz",
         "time/valid.csv.gz", "time/test.csv.gz"),
        ("target",), (90_941, 29_799, 48_603), PLAIN, RIDGE_CLASSES,
        "Papers of computer science that cite each other, each with 128 numbers on its title and abstract. "
        "The answer is the field of a paper, 0 to 39.",
        ("forty classes", "many nodes", "papers mostly cite their own field", "the hidden papers are newer"),
        "99.99 %", "accuracy",
        url="https://snap.stanford.edu/ogb/data/nodeproppred/arxiv.zip", size_mb=81,
        size_source="the loader of the Open Graph Benchmark", splitting="the official split by year of the "
        "Open Graph Benchmark: training, validation (feedback), test (report)", work_minutes=2,
        licence="ODC-BY (Open Graph Benchmark)",
    ),
    Recipe(
        "denoising-dirty-documents", "held-out", "image", "regression", "rmse", "pages",
        ("train/*.png", "train_cleaned/*.png"), ("target",), (34_000, 11_500, 11_500), SCALED, TREE,
        "Scanned pages with stains and creases. The answer is the grey value of single pixels of the clean "
        "page, 0 (black) to 1 (white).",
        ("grey pages", "the same text stands on several pages"), "0.01", "RMSE",
        archives=("train.zip", "train_cleaned.zip"), side=1, channels=1, stratified=False,
        splitting="pages cut from the competition's training set, those with the same clean page in one set; "
        "of each page a random sample of pixels is graded, since a submission with all is too large",
        slug="denoising-dirty-documents", size_mb=60, paper_init=0.1556, paper_best=0.0556,
    ),
    Recipe(
        "leaf-classification", "held-out", "image", "probability", "logloss", "pictures",
        ("train.csv", "images/*.jpg"), ("species",), (594, 198, 198), SCALED_NUMBERS, LOGISTIC,
        "Outlines of leaves, with 192 numbers on margin, shape and texture of each. The answer is the "
        "probability of each of 99 species.",
        ("99 classes", "ten rows a class", "pictures and numbers"), "0.001", "logloss",
        archives=("train.csv.zip", "images.zip"), id="id", needs=("margin1", "shape1", "texture1"),
        picture="images/{}.jpg", picture_column="id", side=64, channels=1,
        slug="leaf-classification", size_mb=36, paper_init=0.08, paper_best=0.0373,
    ),
    Recipe(
        "statoil-iceberg-classifier", "held-out", "image", "probability", "logloss", "bands",
        ("train.json",), ("is_iceberg",), (962, 321, 321), SCALED, LOGISTIC,
        "Radar echoes from the sea in two polarisations (decibel), 75 by 75 pixels, with the angle of "
        "incidence. The answer is the probability that the echo is an iceberg (1) and not a ship (0).",
        ("two classes", "two bands", "speckle", "missing angles"), "0.001", "logloss",
        archives=("train.json.7z",), id="id", needs=("band_1", "band_2", "inc_angle"), side=75, channels=2,
        slug="statoil-iceberg-classifier-challenge", disk_mb=1500, work_minutes=2,
        paper_init=0.2909, paper_best=0.2617,
        note="its file is a .7z: unpacking it needs the optional package py7zr (pip install py7zr)",
    ),
    Recipe(
        "whale-categorization-playground", "held-out", "image", "rank", "map@5", "pictures",
        ("train.csv", "train/*.jpg"), ("Id",), (5_910, 1_970, 1_970), SCALED, NEIGHBOURS,
        "Photos of the flukes of humpback whales. The answer is the five most likely whales, best first; 0 "
        "stands for a whale that is in no visible photo.",
        ("thousands of classes", "few rows per class", "colour and grey photos"), "0.9999", "MAP@5",
        archives=("train.zip",), picture="train/{}", picture_column="Image", id="Image", unseen="new_whale",
        side=64, channels=1, slug="whale-categorization-playground", disk_mb=2500, work_minutes=5,
        splitting="cut from the competition's training set; a whale without a visible photo becomes class 0 "
        "(new_whale)",
        paper_init=0.1162, paper_best=0.2524,
    ),
    Recipe(
        "learning-agency-lab-automated-essay-scoring-2", "held-out", "text", "regression", "qwk", "table",
        ("train.csv",), ("score",), (10_385, 3_461, 3_461), WORDS, RIDGE,
        "Essays of pupils with one mark from 1 to 6. The score is the quadratic weighted kappa of the "
        "rounded answer.",
        ("ordered target", "long texts"), "0.9999", "QWK",
        id="essay_id", rename=(("full_text", "text"),),
        slug="learning-agency-lab-automated-essay-scoring-2", disk_mb=300, work_minutes=2,
        paper_init=0.7332, paper_best=0.7693,
    ),
    Recipe(
        "detecting-insults-in-social-commentary", "held-out", "text", "label", "accuracy", "table",
        ("train.csv",), ("Insult",), (2_369, 789, 789), WORDS, LOGISTIC,
        "Comments from conversations on the web, with their date. The answer is whether a participant is "
        "insulted (1) or not (0).",
        ("two classes", "short texts", "spelling of the web"), "99.99 %", "accuracy",
        needs=("Date",), rename=(("Comment", "text"), ("Date", "date")),
        slug="detecting-insults-in-social-commentary", size_mb=2, memory=2 << 30,
        paper_init=0.7972, paper_best=0.8273,
        note="new participants often cannot accept its rules (the button is grey): use --from with a copy "
        "that you are allowed to use",
    ),
    Recipe(
        "spooky-author-identification", "held-out", "text", "probability", "logloss", "table",
        ("train.csv",), ("author",), (11_747, 3_916, 3_916), WORDS, LOGISTIC,
        "Sentences from horror stories by Poe, Lovecraft and Shelley. The answer is the probability of each "
        "author.",
        ("three classes", "short texts"), "0.001", "logloss",
        archives=("train.zip",), id="id", slug="spooky-author-identification", size_mb=1.9, memory=2 << 30,
        paper_init=0.4494, paper_best=0.4078,
    ),
    Recipe(
        "jigsaw-toxic-comment-classification", "held-out", "text", "multioutput", "auc-columns", "table",
        ("train.csv",), ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"),
        (30_000, 10_000, 10_000), WORDS, LABELS,
        "Remarks on the talk pages of an encyclopaedia. The answers are six probabilities, one for each kind "
        "of toxicity. The score is the mean of the six AUC.",
        ("six labels", "rare labels"), "0.9999", "AUC",
        archives=("train.csv.zip",), id="id", rename=(("comment_text", "text"),),
        slug="jigsaw-toxic-comment-classification-challenge", size_mb=60, work_minutes=2,
        paper_init=0.9752, paper_best=0.9763,
    ),
    Recipe(
        "us-patent-phrase-to-phrase-matching", "held-out", "text", "regression", "pearson", "table",
        ("train.csv",), ("score",), (21_883, 7_295, 7_295), TRIGRAMS, RIDGE,
        "Pairs of phrases from patents with the class of the patent (context). The answer is how near the "
        "phrase is in meaning to the anchor, 0 to 1. The score is the correlation.",
        ("pairs of phrases", "very short texts", "technical terms"), "0.9999", "Pearson",
        id="id", rename=(("anchor", "anchor"), ("target", "phrase"), ("context", "context")),
        slug="us-patent-phrase-to-phrase-matching", size_mb=2.2, memory=2 << 30,
        paper_init=0.453, paper_best=0.5791,
    ),
    Recipe(
        "tabular-playground-series-dec-2021", "held-out", "tabular", "label", "accuracy", "table",
        ("train.csv",), ("Cover_Type",), (40_000, 10_000, 10_000), NUMBERS, TREE_CLASSES,
        "Synthetic plots of forest with height, slope, distances, wilderness area and soil. The answer is "
        "the kind of cover, 1 to 7.",
        ("up to seven classes", "some classes are very rare", "many binary columns"), "99.99 %", "accuracy",
        id="Id", needs=("Elevation", "Slope"), slug="tabular-playground-series-dec-2021", size_mb=700,
        work_minutes=3, paper_init=0.959, paper_best=0.9613,
    ),
)  # fmt: skip


def recipe(name: str) -> Recipe:
    """Return the recipe of this name; Kaggle's name of the competition will do, with or without ``paper/``.

    Raises:
        TaskError: There is none; the message names the nearest.

    Example:
        >>> recipe("paper/nomad2018").slug
        'nomad2018-predict-transparent-conductors'
    """
    short = name.removeprefix(PREFIX)
    for found in RECIPES:
        if short and short in (found.name, found.slug):
            return found
    names = [name for found in RECIPES for name in (found.name, found.slug) if name]
    near = difflib.get_close_matches(short, names, 1, 0.3)
    hint = f"did you mean {PREFIX}{near[0]}? " if near else ""
    raise TaskError(
        f"the paper has no task {short!r}", cure=f"{hint}mlagent tasks list --suite paper shows all 19"
    )


def rough_size(found: Recipe) -> str:
    """Return the size of the download in words.

    Example:
        >>> rough_size(recipe("cifar-10")), rough_size(recipe("spaceship-titanic"))
        ('about 162 MB', 'unknown')
    """
    return "unknown" if found.size_mb is None else f"about {found.size_mb:g} MB"


def rough_time(found: Recipe) -> str:
    """Return the time in words: a download at 5 MB a second, then the preparation on one core; an estimate.

    Example:
        850 MB at 5 MB/s are 2.8 minutes; 3 minutes of work follow.

        >>> rough_time(recipe("dogs-vs-cats-redux")), rough_time(recipe("home-data-for-ml-course"))
        ('about 6 min', 'about 1 min + download')
    """
    if found.size_mb is None:
        return f"about {found.work_minutes} min + download"
    return f"about {round(found.size_mb / 5 / 60 + found.work_minutes)} min"


def paper_task_rows(split: str | None = None) -> list[tuple[str, ...]]:
    """Return the table of the paper's tasks, with its header.

    Args:
        split: ``held-in``, ``held-out`` or None for all.
    """
    rows = [("task", "split", "metric", "download", "time", "command")]
    rows += [
        (found.name, found.split, found.paper_metric, rough_size(found), rough_time(found), found.command)
        for found in RECIPES
        if split in (None, found.split)
    ]
    return rows


def paper_task_lines() -> list[str]:
    """Return the same table as lines of Markdown, for the README."""
    header, *rows = paper_task_rows()
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return lines + ["| " + " | ".join([*row[:-1], f"`{row[-1]}`"]) + " |" for row in rows]
