"""What model servers took: tokens and, at the user's prices, money, for each trajectory and for a run.

Every call leaves one line in a ledger (``calls.jsonl``) as it ends, whether it brought a reply or not, so
that a bill survives a kill. Tables are made from the ledger. Tokens are the server's own numbers; a reply
that came without them makes the cost unknown, never zero. Prices are the user's: the kit knows none.

Two kinds of retry have two names: a *retry* repeats a request that brought nothing usable (a rate limit, a
dropped connection, an empty reply), *asked again* is a reply that broke the format, and another request.
"""

from __future__ import annotations

import csv
import io
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.files import append_jsonl, read_jsonl, write_text

CALLS = "calls.jsonl"
COSTS = "costs.csv"
MILLION = 1_000_000
Edits = Mapping[str, Sequence[str]]  # for each conversation with a coder, who asked for that edit
PRICE_CURE = "write 'models: {NAME: {input: 1.0, output: 2.0, cached: 0.5}}', prices per million tokens"
_SUMS = (
    "calls", "hits", "failed", "requests", "retries", "asked_again", "prompt_tokens", "cached_tokens",
    "completion_tokens", "retry_tokens", "asked_again_tokens", "without_usage",
)  # fmt: skip
_TOLD = (
    "{calls:,} calls ({hits:,} hits, {failed:,} failed), {requests:,} requests ({retries:,} retries), "
    "{asked_again:,} asked again; {prompt_tokens:,} tokens in ({cached_tokens:,} cached), "
    "{completion_tokens:,} out; "
)
COLUMNS = ("scope", "trajectory", "role", "model", *_SUMS, "cost", "cost_without_hits", "currency")


@dataclass(frozen=True)
class Tokens:
    """Tokens as a server counts them: ``cached`` is the part of ``prompt`` from the server's own cache."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, o: Tokens) -> Tokens:
        return Tokens(self.prompt + o.prompt, self.cached + o.cached, self.completion + o.completion)

    def __sub__(self, o: Tokens) -> Tokens:
        return self + Tokens(-o.prompt, -o.cached, -o.completion)


@dataclass
class Spend:
    """What one call has taken so far, all its requests together; filled in also where the call fails."""

    requests: int = 0
    tokens: Tokens = field(default_factory=Tokens)  # of all replies, usable or not
    without_usage: int = 0  # replies of which the server did not say how many tokens they took


@dataclass(frozen=True)
class Price:
    """What a million tokens cost, in the user's unit; without ``cached``, cached ones cost like the others.

    Raises:
        ProfileError: A price is negative or no number.
    """

    input: float
    output: float
    cached: float | None = None
    currency: str = ""

    def __post_init__(self):
        for name in ("input", "output", "cached"):
            value = getattr(self, name)
            if value is None and name == "cached":
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value) and value >= 0):
                raise ProfileError(f"the price {name} is {value!r}", cure="give a number of 0 or more")

    def of(self, tokens: Tokens) -> float:
        """Return what these tokens cost.

        Example:
            600 prompt tokens at 2, 400 cached ones at 0.5, 200 written ones at 8, each per million.

            >>> round(Price(2.0, 8.0, 0.5).of(Tokens(prompt=1000, cached=400, completion=200)), 6)
            0.003
        """
        cached = self.input if self.cached is None else self.cached
        fresh = tokens.prompt - tokens.cached
        return (fresh * self.input + tokens.cached * cached + tokens.completion * self.output) / MILLION


def read_prices(path: str | Path) -> dict[str, Price]:
    """Return the prices of models from a YAML file of the user: ``models``, and a ``currency`` where wanted.

    Raises:
        ProfileError: The file is missing, is no YAML, or breaks these rules; the message names the place.
    """
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"there is no price file {path}", cure="check the name after --prices") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:200]
        raise ProfileError(f"the price file {path} cannot be read: {why}", cure=PRICE_CURE) from None
    models = loaded.get("models") if isinstance(loaded, dict) else None
    if not isinstance(models, dict) or not models or set(loaded) - {"models", "currency"}:
        told = f"the price file {path} must hold 'models' and, where wanted, 'currency'"
        raise ProfileError(told, cure=PRICE_CURE)
    currency, prices = str(loaded.get("currency") or ""), {}
    for name, given in models.items():
        where, names = f"model {name!r} in {path}", set(given) if isinstance(given, dict) else set()
        if not {"input", "output"} <= names <= {"input", "output", "cached"}:
            raise ProfileError(f"{where} must have input and output, and may have cached", cure=PRICE_CURE)
        try:
            prices[str(name)] = Price(**given, currency=currency)
        except ProfileError as error:
            raise ProfileError(f"{where}: {error.message}", cure=error.cure) from None
    return prices


@dataclass(frozen=True)
class Call:
    """One call for a reply, as the ledger keeps it.

    Tokens and seconds are those of the reply that was used (for a hit, of the request that had brought it),
    ``retry_*`` tokens those of replies that were of no use.
    """

    role: str  # policy or coder
    model: str  # as the server knows it
    trajectory: str  # "" for a coder's, which learns only the edit
    step: int | None
    number: int  # 1 for the first reply of a step, more where the ones before broke the format
    key: str  # of the conversation, see `reply_cache.reply_key`
    hit: bool  # the reply was known and nothing was sent
    failed: bool  # no reply came
    broke: str  # the named reason why the reply is no action, or ""
    requests: int  # 0 for a hit
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    retry_prompt_tokens: int
    retry_cached_tokens: int
    retry_completion_tokens: int
    without_usage: int  # replies whose tokens the server did not tell
    seconds: float

    @property
    def used(self) -> Tokens:
        """Tokens of the reply that was used."""
        return Tokens(self.prompt_tokens, self.cached_tokens, self.completion_tokens)

    @property
    def lost(self) -> Tokens:
        """Tokens of replies that were of no use."""
        return Tokens(self.retry_prompt_tokens, self.retry_cached_tokens, self.retry_completion_tokens)


class Ledger:
    """All ``calls`` of a stage, in the order they ended; threads share one object.

    Args:
        path: A JSONL file that the calls are appended to; None keeps them in memory only.

    Raises:
        RunError: The file holds lines that are no calls.
    """

    def __init__(self, path: Path | None = None, *, on_call: Callable[[Call], None] | None = None):
        self.path, self.on_call = path, on_call
        self.calls: list[Call] = read_calls(path) if path and path.exists() else []
        self._lock = threading.Lock()

    def add(self, call: Call) -> None:
        """Write down a call."""
        with self._lock:
            self.calls.append(call)
            if self.path:
                append_jsonl(self.path, asdict(call))
        if self.on_call:
            self.on_call(call)


def read_calls(path: Path) -> list[Call]:
    """Return the calls of a ledger.

    Raises:
        RunError: The file is missing, or a line is no call.
    """
    rows, bad = read_jsonl(path)
    try:
        if bad:
            raise TypeError(f"{bad} unreadable lines")
        return [Call(**row) for row in rows]
    except TypeError as error:
        cure = "move this file away; what it held is not billed"
        raise RunError(f"{path} is no ledger of calls: {error}", cure=cure) from None


def cost_rows(calls: Iterable[Call], prices: Mapping[str, Price], edits: Edits | None = None) -> list[dict]:
    """Return the table of costs: a row for each trajectory, role and model, then their sums over the run.

    Equal calls of a policy (the same trajectory, step, reply and conversation) are one call, however often it
    was made: a run that was stopped meets its own replies again. All that was paid is added up.

    Args:
        prices: By model. A model without one has no cost.
        edits: For each conversation with a coder (its key) the trajectories that asked for that edit, in
            order. The first is billed for it. Without it a coder's calls belong to no trajectory.

    Returns:
        Columns: scope (``trajectory`` or ``run``), trajectory, role, model; calls, of which hits (known, not
        paid) and failed; requests, of which retries; asked_again (calls after a reply that broke the format);
        prompt_tokens (cached_tokens among them) and completion_tokens, all of them paid, of which
        retry_tokens and asked_again_tokens; without_usage (replies whose tokens are not known); cost; the
        cost_without_hits, had nothing been known and no request been repeated; currency. A cost is None
        where a price or a number of tokens is not known.

    Example:
        >>> call = Call("policy", "m", "a/t/0", 0, 1, "k", False, False, "", 1, 1000, 0, 500, 0, 0, 0, 0, 1.0)
        >>> [(row["scope"], row["cost"]) for row in cost_rows([call], {"m": Price(1.0, 2.0)})]
        [('trajectory', 0.002), ('run', 0.002)]
    """
    sums: dict[tuple, Counter] = {}
    used: dict[tuple, Tokens] = {}
    for owner, same, paid in _needed(calls, edits or {}):
        replies = [call for call in same if not call.failed]
        counts = _counts(same, paid, has_reply=bool(replies))
        for key in (("trajectory", owner), ("run", "")):
            place = (*key, same[0].role, same[0].model)
            sums.setdefault(place, Counter()).update(counts)
            used[place] = used.get(place, Tokens()) + (replies[-1].used if replies else Tokens())
    rows = []
    for place in sorted(sums, key=lambda place: (place[0] == "run", place)):
        found, price = {name: sums[place][name] for name in _SUMS}, prices.get(place[-1])
        paid = Tokens(found["prompt_tokens"], found["cached_tokens"], found["completion_tokens"])
        is_known = price is not None and not found["without_usage"]
        costs = (price.of(paid), price.of(used[place])) if is_known else (None, None)
        values = (*place, *found.values(), *costs, price.currency if price else "")
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _counts(same: Sequence[Call], paid: Sequence[Call], *, has_reply: bool) -> Counter:
    """Return what a needed call adds to the sums."""
    tokens = sum((call.used + call.lost for call in paid), Tokens())
    asked_again = int(same[0].number > 1)
    return Counter(
        calls=1,
        hits=int(has_reply and all(call.failed for call in paid)),
        failed=int(not has_reply),
        requests=sum(call.requests for call in paid),
        retries=sum(max(call.requests - 1, 0) for call in paid),
        asked_again=asked_again,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        retry_tokens=sum(call.lost.prompt + call.lost.completion for call in paid),
        asked_again_tokens=asked_again * (tokens.prompt + tokens.completion),
        without_usage=sum(call.without_usage for call in paid),
    )


def _needed(calls: Iterable[Call], edits: Edits) -> Iterator[tuple[str, list[Call], list[Call]]]:
    """Yield for each call that was needed: for which trajectory, its records, and those of them that cost."""
    groups: dict[tuple, list[Call]] = {}
    for call in calls:
        place = (call.trajectory, call.step, call.number) if call.role == "policy" else ()
        groups.setdefault((call.role, call.model, call.key, *place), []).append(call)
    for same in groups.values():
        owners = [same[0].trajectory] if same[0].role == "policy" else edits.get(same[0].key) or [""]
        for number, owner in enumerate(owners):
            yield owner, same, [call for call in same if not call.hit] if number == 0 else []


def total_cost(rows: Iterable[Mapping]) -> tuple[float | None, str]:
    """Return what a run cost and in which unit, of `cost_rows`; None where a part of it is not known."""
    whole = [row for row in rows if row["scope"] == "run"]
    units = {row["currency"] for row in whole}
    if len(units) != 1 or any(row["cost"] is None for row in whole):
        return None, ""
    return sum(row["cost"] for row in whole), units.pop()


def write_costs(path: Path, rows: Iterable[Mapping]) -> Path:
    """Write `cost_rows` as CSV, columns of the caller's own first; what is not known is an empty cell."""
    rows, text = list(rows), io.StringIO()
    more = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]
    writer = csv.DictWriter(text, [*more, *COLUMNS], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {name: f"{row[name]:.10g}" for name in ("cost", "cost_without_hits") if row[name] is not None}
        writer.writerow({**row, "cost": "", "cost_without_hits": "", **shown})
    return write_text(path, text.getvalue())


def told(rows: Sequence[Mapping]) -> str:
    """Return one sentence on what a run took, of its `cost_rows`.

    Example:
        >>> told([])
        'no calls to a model server'
    """
    whole = [row for row in rows if row["scope"] == "run"]
    if not whole:
        return "no calls to a model server"
    sums = {name: sum(row[name] for row in whole) for name in _SUMS}
    cost, unit = total_cost(rows)
    if cost is not None:
        money = f"cost {cost:.6g} {unit or '(in the unit of your prices)'}"
    elif sums["without_usage"]:
        money = f"cost unknown: {sums['without_usage']} replies came without their tokens"
    else:
        money = "cost unknown: no price was given"
    return _TOLD.format_map(sums) + money
