"""Why a script or grader of years ago fails on today's libraries: which line, which cause, what to change.

A stack trace names the place where a library gave up. The reader of a benchmark folder needs the line of the
folder's own file, what has changed since it was written, and the replacement. Versions: when the name went,
from the release notes of NumPy, pandas, scikit-learn, SciPy, PyTorch and Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.core.tracebacks import cause_of

_NUMPY_ALIASES = {"float": "float", "int": "int", "bool": "bool", "object": "object", "str": "str",
                  "complex": "complex", "long": "int", "unicode": "str"}  # fmt: skip
_NUMPY_2 = {
    "float_": "np.float64", "complex_": "np.complex128", "unicode_": "np.str_", "string_": "np.bytes_",
    "Inf": "np.inf", "infty": "np.inf", "Infinity": "np.inf", "PINF": "np.inf", "NINF": "-np.inf",
    "NaN": "np.nan", "product": "np.prod", "cumproduct": "np.cumprod", "alltrue": "np.all",
    "sometrue": "np.any", "in1d": "np.isin", "trapz": "np.trapezoid", "row_stack": "np.vstack",
    "round_": "np.round", "asfarray": "np.asarray(..., dtype=float)", "msort": "np.sort(..., axis=0)",
    "find_common_type": "np.result_type", "cast": "np.asarray(..., dtype=...)",
}  # fmt: skip
_INSTALL_AS = {
    "sklearn": "scikit-learn", "cv2": "opencv-python", "PIL": "Pillow", "yaml": "PyYAML", "skimage":
    "scikit-image", "torch_geometric": "torch-geometric", "Levenshtein": "python-Levenshtein",
    "dotenv": "python-dotenv", "bs4": "beautifulsoup4", "absl": "absl-py", "haiku": "dm-haiku",
    "clrs": "dm-clrs", "tree": "dm-tree", "sonnet": "dm-sonnet", "attr": "attrs", "google": "protobuf",
    "umap": "umap-learn", "imblearn": "imbalanced-learn", "skopt": "scikit-optimize", "pywt": "PyWavelets",
    "faiss": "faiss-cpu", "community": "python-louvain", "Bio": "biopython", "docx": "python-docx",
    "fitz": "PyMuPDF", "dateutil": "python-dateutil", "git": "GitPython", "progressbar": "progressbar2",
    "pkg_resources": "setuptools", "mpl_toolkits": "matplotlib", "Crypto": "pycryptodome", "magic":
    "python-magic", "osgeo": "GDAL", "tensorflow_hub": "tensorflow-hub",
}  # fmt: skip

# (pattern over "Class: text", cause, cure, pattern of the source lines with the same fault); \1 as in re.sub
_ROWS: tuple[tuple[str, str, str, str], ...] = (
    (r"'?DataFrame'? object has no attribute 'append'|'Series' object has no attribute 'append'",
     "pandas 2.0 removed append", "use pandas.concat([a, b])", r"\.append\("),
    (r"object has no attribute 'iteritems'", "pandas 2.0 removed iteritems", "write items()",
     r"\.iteritems\("),
    (r"object has no attribute 'ix'", "pandas 1.0 removed ix", "write loc or iloc", r"\.ix\["),
    (r"object has no attribute 'applymap'", "pandas 3.0 removed applymap", "write map(...)",
     r"\.applymap\("),
    (r"object has no attribute 'mad'", "pandas 2.0 removed mad",
     "write (x - x.mean()).abs().mean()", r"\.mad\("),
    (r"fillna\(\) got an unexpected keyword argument 'method'", "pandas 3.0 removed fillna(method=...)",
     "write ffill() or bfill()", r"fillna\([^)]*method"),
    (r"read_csv\(\) got an unexpected keyword argument '(squeeze|error_bad_lines|warn_bad_lines|prefix|"
     r"delim_whitespace|date_parser|infer_datetime_format|mangle_dupe_cols)'",
     r"pandas removed read_csv(\1=...)", r"delete it; on_bad_lines='skip' and sep='\s+' take its place",
     r"\1\s*="),
    (r"(?:drop|set_index|sum|mean|any|all)\(\) takes (?:from )?1 .*positional argument",
     "pandas 2.0 takes axis and the like by name only", "write axis=1 in place of a bare 1", ""),
    (r"TypeError: (?:Could not convert .* to numeric|Cannot perform reduction '\w+' with string dtype|"
     r"dtype 'str' does not support)",
     "pandas 2.0 no longer leaves text columns out of a mean or a sum", "write mean(numeric_only=True)", ""),
    (r"unexpected keyword argument 'squared'", "scikit-learn 1.6 removed squared=False",
     "write root_mean_squared_error(a, b) from sklearn.metrics", r"squared\s*="),
    (r"OneHotEncoder.*unexpected keyword argument 'sparse'", "scikit-learn 1.4 renamed sparse",
     "write sparse_output=", r"OneHotEncoder\([^)]*sparse\s*="),
    (r"has no attribute 'get_feature_names'", "scikit-learn 1.2 removed get_feature_names",
     "write get_feature_names_out()", r"\.get_feature_names\("),
    (r"unexpected keyword argument 'base_estimator'", "scikit-learn 1.4 renamed base_estimator",
     "write estimator=", r"base_estimator\s*="),
    (r"unexpected keyword argument 'multi_class'", "scikit-learn 1.8 removed multi_class",
     "delete the argument", r"multi_class\s*="),
    (r"'max_features' parameter of \w+ must be .*Got 'auto'", "scikit-learn 1.3 removed max_features='auto'",
     "write 'sqrt' for classifiers, 1.0 for regressors", r"max_features\s*=\s*['\"]auto"),
    (r"'loss' parameter of \w+ must be .*Got '(log|ls|lad|squared_loss|deviance)'",
     r"scikit-learn 1.2 and 1.3 renamed the loss \1",
     "write 'log_loss', 'squared_error' or 'absolute_error'", r"loss\s*=\s*['\"]\1['\"]"),
    (r"'penalty' parameter of \w+ must be .*Got 'none'", "scikit-learn 1.4 removed penalty='none'",
     "write penalty=None", r"penalty\s*=\s*['\"]none"),
    (r"load_boston", "scikit-learn 1.2 removed load_boston", "use another data set", r"load_boston"),
    (r"cannot import name 'Imputer'", "scikit-learn 0.22 removed Imputer",
     "use SimpleImputer from sklearn.impute", r"\bImputer\b"),
    (r"No module named 'sklearn\.(cross_validation|grid_search|externals)[\w.]*'|"
     r"cannot import name 'joblib' from 'sklearn\.externals'",
     "scikit-learn removed sklearn.externals, cross_validation and grid_search",
     "import joblib itself, or sklearn.model_selection",
     r"sklearn\.(externals|cross_validation|grid_search)"),
    (r"cannot import name '(plot_confusion_matrix|plot_roc_curve|plot_precision_recall_curve)'",
     r"scikit-learn 1.2 removed \1", "use the Display classes of sklearn.metrics", r"\1"),
    (r"Weights only load failed|weights_only", "PyTorch 2.6 made torch.load(weights_only=True) the default",
     "save a state_dict, or pass weights_only=False for a file that you trust", r"torch\.load\("),
    (r"Torch not compiled with CUDA enabled|No CUDA GPUs are available|Found no NVIDIA driver",
     "a run has no GPU", "write torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
     r"cuda"),
    (r"Attempting to deserialize object on a CUDA device", "the file was saved on a GPU and a run has none",
     "pass map_location='cpu'", r"torch\.load\("),
    (r"No module named 'torch\._six'", "PyTorch 2.0 removed torch._six",
     "use str and math.inf", r"torch\._six"),
    (r"(?:module 'torch' has no attribute|torch\.)'?(symeig|eig|lstsq|qr|solve|matrix_rank)'?",
     r"PyTorch removed torch.\1", "use torch.linalg", r"torch\.\1\("),
    (r"unexpected keyword argument 'evaluation_strategy'", "transformers 4.46 renamed evaluation_strategy",
     "write eval_strategy=", r"evaluation_strategy"),
    (r"cannot import name 'AdamW' from 'transformers", "transformers removed its AdamW",
     "import it from torch.optim", r"AdamW"),
    (r"cannot import name 'load_metric'", "datasets 3.0 removed load_metric",
     "use evaluate.load", r"load_metric"),
    (r"Dataset scripts are no longer supported", "datasets 4.0 runs no loading scripts",
     "load the text or parquet files by name", r"load_dataset\("),
    (r"scipy\.misc|(?:from|module) 'scipy' .*'(interp|array|mean|pi)'|cannot import name '(?:interp|array)' "
     r"from 'scipy'", "SciPy no longer passes NumPy's names on", "import them from numpy", r"scipy"),
    (r"'(trapz|simps|cumtrapz)'", r"SciPy 1.14 removed \1",
     "write trapezoid, simpson or cumulative_trapezoid", r"\b\1\b"),
    (r"'(Mapping|Sequence|Iterable|Callable|MutableMapping|Hashable)' from 'collections'|"
     r"module 'collections' has no attribute", "Python 3.10 moved the abstract classes",
     "import them from collections.abc", r"collections"),
    (r"No module named '(distutils|imp|asyncore|cgi|pipes)'", r"Python 3.12 and 3.13 removed \1",
     "use importlib, shutil or packaging in its place", r"import \1|from \1"),
    (r"Missing parentheses in call to 'print'", "this is Python 2", "write print(...)", r"print "),
    (r"'seaborn[\w-]*' is not a valid", "Matplotlib 3.8 renamed seaborn's styles",
     "write seaborn-v0_8", r"seaborn"),
    (r"np\.(?:u?int\d*|float\d*|bool_|str_)\(|np\.(?:True|False)_|malformed node or string.*<ast\.(?:Call|"
     r"Attribute)|\"<string>\".*NameError: name 'np' is not defined",
     "NumPy 2 writes its numbers as np.int64(3) where a list or repr() becomes text",
     "write x.item() or x.tolist() before it becomes text", ""),
    (r"Unable to avoid copy while creating an array", "NumPy 2 takes copy=False at its word",
     "write np.asarray(...)", r"copy\s*=\s*False"),
    (r"Cannot interpret '<StringDtype", "pandas 3.0 gives text columns the dtype str, unknown to NumPy",
     "write pd.api.types.is_numeric_dtype(...) in place of np.issubdtype", r"issubdtype\("),
    (r"ArrowStringArray|'StringArray' object", "pandas 3.0 keeps texts in arrays of its own",
     "write to_numpy(dtype=object) in place of values", r"\.values\b"),
    (r"assignment destination is read-only", "pandas 3.0 lends its arrays read-only",
     "write to_numpy(copy=True) in place of values", r"\.values\b"),
    (r"Invalid value '.*' for dtype '", "pandas 3.0 changes no column's type for one value",
     "write astype(object) or astype(float) before it", ""),
    (r"only (?:0-dimensional|length-1|size-1) arrays can be converted to Python scalars",
     "NumPy 2.4 converts no array with a dimension to a number", "take the element: x[0] or x.item()", ""),
    (r"setting an array element with a sequence.*inhomogeneous", "NumPy 1.24 builds no ragged arrays",
     "pass dtype=object", ""),
    (r"gaierror|URLError|ConnectionError|ConnectTimeout|Name or service not known|Temporary failure in name "
     r"resolution|Max retries exceeded|couldn't connect to|LocalEntryNotFoundError|Network is unreachable|"
     r"OfflineModeIsEnabled",
     "it fetches something, and a run has no network", "let scripts/prepare.py put it into env/", ""),
    (r"EOFError: EOF when reading a line", "it asks for input, and there is nobody to answer",
     "delete the input()", r"\binput\("),
)  # fmt: skip

# (pattern over "Class: text", pattern of the line of the file that is the cause, cause, cure)
_ROWS_BY_LINE: tuple[tuple[str, str, str, str], ...] = (
    (r"np\.nan is an invalid document|'float' object (?:has no attribute|is not (?:iterable|subscriptable))|"
     r"object of type 'float' has no len|expected str instance, float found|expected string or bytes-like "
     r"object, got 'float'|between instances of '(?:float' and 'str|str' and 'float)|(?:'float' and 'str'|"
     r"'str' and 'float'|\"float\"\) to str)|argument of type 'float'",
     r"\.astype\(\s*(?:['\"]str\b|str\b)",
     "pandas 3.0: astype(str) on line {line} leaves missing values missing", "write fillna('').astype(str)"),
    (r"could not convert string to float", r"dtypes?\s*[!=]=\s*(?:object\b|['\"](?:O|object)['\"])",
     "pandas 3.0 gives text columns the dtype str, which the test on line {line} misses",
     "write pd.api.types.is_numeric_dtype(...), or select_dtypes('object')"),
    (r"NameError|UnboundLocalError|NotImplementedError|'(?:NoneType|ellipsis)' object|SyntaxError|"
     r"IndentationError",
     r"\bTODO\b|\bFIXME\b|your code|in this part of the code|\bfill (?:in|out|this|me)\b|NotImplementedError|"
     r"\b(?:write|implement|complete|add)\b.*\b(?:here|below)\b|_{4,}|^\s*(?:\w+ = )?\.\.\.\s*$|\*{3,}",
     "the benchmark leaves a gap open on line {line}",
     "fill it in, or name another script with --starter: a starter must run as it is"),
)  # fmt: skip


def advice(error: str, text: str, source: str = "", home: Path | None = None) -> tuple[str, str]:
    """Return the likely cause of an exception and what to change; two empty texts where it is not known.

    Args:
        error: Class name of the exception.
        text: Its text.
        source: The line of code that raised it.
        home: The task's folder, whose requirements may name a package; None where there is none.

    Example:
        >>> advice("AttributeError", "module 'numpy' has no attribute 'float'")
        ('NumPy 1.24 removed np.float', 'write float')
        >>> advice("ValueError", "no such thing")
        ('', '')
    """
    cause, cure, _ = _look_up(error, text, source, home)
    return cause, cure


def _look_up(error: str, text: str, source: str, home: Path | None = None) -> tuple[str, str, str]:
    """Return cause, cure and the pattern of source lines that will fail in the same way."""
    found = re.search(r"module 'numpy' has no attribute '(\w+)'|`np\.(\w+)` was removed", text)
    if found:
        name = found.group(1) or found.group(2)
        pattern = rf"\b(?:np|numpy)\.{name}\b"
        if name in _NUMPY_ALIASES:
            return f"NumPy 1.24 removed np.{name}", f"write {_NUMPY_ALIASES[name]}", pattern
        new = _NUMPY_2.get(name, "the name that NumPy's migration guide gives")
        return f"NumPy 2 removed np.{name}", f"write {new}", pattern
    whole = f"{error}: {text}"
    for pattern, cause, cure, lines in _ROWS:
        match = re.search(pattern, whole, re.DOTALL)
        if match:
            groups = [group or "" for group in match.groups()]
            fill = lambda words, given=groups: words.replace("\\1", given[0] if given else "")  # noqa: E731
            return fill(cause), fill(cure), fill(lines)
    if error in ("ModuleNotFoundError", "ImportError"):
        return _missing_module(text, home)
    if error == "FileNotFoundError":
        path = re.search(r"['\"]([^'\"]+)['\"]", text)
        return (f"the file {path.group(1)} is missing" if path else "a file is missing",
                "run `mlagent tasks prepare` on the folder, or put the file into env/", "")  # fmt: skip
    if "***" in source:
        return (
            "the line is a gap that the benchmark leaves open",
            _ROWS_BY_LINE[-1][3],
            r"\*\*\*",
        )
    return "", "", ""


def _look_through(lines: list[str], error: str, text: str) -> tuple[str, str]:
    """Return cause and cure of an exception that an earlier line of the file explains."""
    for pattern, culprit, cause, cure in _ROWS_BY_LINE:
        if re.search(pattern, f"{error}: {text}"):
            found = (i for i, code in enumerate(lines, 1) if re.search(culprit, code, re.IGNORECASE))
            if line := next(found, 0):
                return cause.format(line=line), cure
    return "", ""


def _missing_module(text: str, home: Path | None) -> tuple[str, str, str]:
    found = re.search(r"No module named '([\w.]+)'", text)
    if not found:
        return "", "", ""
    name = found.group(1).split(".")[0]
    listed = next((path for path in sorted(home.glob("*/requirements*.txt"))), None) if home else None
    if name in _INSTALL_AS:
        install = f"pip install {_INSTALL_AS[name]}"
    elif listed:
        install = f"install what {listed.parent.name}/{listed.name} names for it"
    else:
        install = f"pip install {name} if it is called so there, for other packages bear names of modules too"
    return (f"the package {_INSTALL_AS.get(name, name)} is not installed here",
            f"{install}, or delete the import where nothing uses it",
            rf"\b(?:import|from)\s+{re.escape(name)}\b")  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What a failed script tripped over.

    Attributes:
        file, line, source: Where, in the task's own code; line 0 where it is not known.
        error: Class and text of the exception, or the limit that was reached.
        cause: What has changed since the script was written; "" where it is not known.
        cure: What to change.
        other_lines: Further lines of the file that will fail for the same cause.
    """

    file: str
    line: int
    source: str
    error: str
    cause: str
    cure: str
    other_lines: tuple[int, ...] = ()

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        code = f" ({self.source})" if self.source else ""
        also = f"; the same on line{'s' if len(self.other_lines) > 1 else ''} " if self.other_lines else ""
        also += ", ".join(map(str, self.other_lines))
        return f"{place}{code}: {self.error}{f'; cause: {self.cause}' if self.cause else ''}{also}"


_LIMIT_CURES = {
    "timeout": ("it ran longer than limits.seconds", "raise the time limit (--seconds) or use fewer rows"),
    "memory": ("it needed more than limits.memory_bytes", "raise it (--memory-gb) or use fewer rows"),
    "disk": ("it wrote more than limits.file_bytes or disk_bytes", "raise these limits"),
    "files": ("it wrote more than limits.files", "raise this limit"),
    "processes": ("it started more than limits.processes", "raise this limit or use n_jobs=1, num_workers=0"),
    "output": ("it printed far more than limits.output_bytes", "print less"),
}


def diagnose(
    files: Mapping[str, bytes],
    script: str,
    status: str,
    output: str,
    folder: str = "env",
    home: Path | None = None,
) -> Diagnosis:
    """Return what a script tripped over, from the output of its run.

    Args:
        files: The workspace that it ran in.
        script: Which of them was started.
        status: Of the run, as the isolated runner gives it.
        output: What it printed; paths of the workspace begin with ``/workspace/`` or are relative.
        folder: Where the files lie, for the reader.
        home: The task's folder, see `advice`.

    Example:
        >>> trace = 'Traceback (most recent call last):\\n  File "train.py", line 2, in <module>\\n'
        >>> trace += "AttributeError: module 'numpy' has no attribute 'int'"
        >>> print(diagnose({"train.py": b"import numpy as np\\nx = np.int"}, "train.py", "error", trace))
        env/train.py, line 2 (x = np.int): AttributeError: module 'numpy' has no attribute 'int'; cause: \
NumPy 1.24 removed np.int
    """
    if status in _LIMIT_CURES:
        cause, cure = _LIMIT_CURES[status]
        return Diagnosis(f"{folder}/{script}", 0, "", status, cause, cure)
    name, line = script, 0
    last = cause_of(output) or output.split("Exception ignored ")[0]
    for place, number in re.findall(r'^\s*File "(?:/workspace/)?([^"]+)", line (\d+)', last, re.MULTILINE):
        if place in files:
            name, line = place, int(number)
    lines = files[name].decode("utf-8", "replace").splitlines() if name in files else []
    source = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    raised = re.findall(r"^((?:\w+\.)*([A-Za-z_]\w*)(?:: .*)?)$", last, re.MULTILINE)
    first = raised[0 if "Traceback (most recent" in output else -1] if raised else ("", "")
    error, text = first[1], first[0].partition(": ")[2]
    cause, cure, pattern = _look_up(error, text, source, home)
    if not cause and raised:  # some libraries put the telling words into the lines around
        cause, cure, pattern = _look_up(error, output[-2000:], source, home)
    if not cause:
        cause, cure = _look_through(lines, error, text)
    also = tuple(i for i, code in enumerate(lines, 1) if pattern and i != line and re.search(pattern, code))
    shown = f"{error}: {text}".rstrip(": ")[:300] if raised else "it ended with an error"
    cure = cure or "run it by hand and correct it"
    return Diagnosis(f"{folder}/{name}", line, source, shown, cause, cure, also)
