"""Readers that graders and their runner use."""

import json
import logging
from pathlib import Path

import pandas as pd


def get_logger(name: str, level: int = logging.INFO, filename: Path | None = None) -> logging.Logger:
    """Return a logger; ``filename`` is taken for compatibility: logging to a file is left to the program."""
    logger = logging.getLogger(name)
    logger.setLevel(level)
    return logger


def read_csv(*args: object, **kwargs: object) -> pd.DataFrame:
    """Return a table; an empty file gives an empty one."""
    try:
        return pd.read_csv(*args, **kwargs)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def read_jsonl(file_path: str, skip_commented_out_lines: bool = False) -> list[dict]:
    """Return one dictionary for each line; comments start with ``#`` or ``//``."""
    lines = Path(file_path).read_text(encoding="utf-8").splitlines()
    if skip_commented_out_lines:
        lines = [line for line in lines if line.strip() and not line.strip().startswith(("#", "//"))]
    return [json.loads(line) for line in lines]
