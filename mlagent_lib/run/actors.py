"""Who acts and who codes: from the names that a user gives to a policy and a coder that are ready.

A policy is named by ``starter``, ``random-ideas``, ``scripted``, ``base``, ``sft``, ``rl``, the folder of an
adapter or of a run, or ``openai:<model>@<url>``. What a name means is settled first, without loading a model
(`plan`); what is written down of it holds no key and no path.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlagent_lib.agents.policies import ChatPolicy, Policy, ScriptedExpert
from mlagent_lib.agents.server.accounting import Ledger, Price, cost_rows
from mlagent_lib.agents.server.chat import CODER_MAX_TOKENS, Chat
from mlagent_lib.agents.server.endpoint import API_KEY_ENV, ChatEndpoint, parse_endpoint
from mlagent_lib.agents.server.reply_cache import ReplyCache
from mlagent_lib.agents.server.wire import MIN_SECRET_LENGTH, read_key
from mlagent_lib.core.artifacts import RUN_RECORD
from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.files import sha256_file
from mlagent_lib.core.profiles import POLICIES, Profile, get_profile
from mlagent_lib.environment.actions import read_text
from mlagent_lib.environment.coder import ChatCoder, Coder, chat_messages
from mlagent_lib.environment.workspace import State
from mlagent_lib.run.lab import Lab, baseline_policy, local_agent, make_coder

ADAPTERS = {"sft": "02_sft/adapter", "rl": "03_grpo/adapter"}
WITHOUT_MODEL = ("starter", "random-ideas", "scripted")
POLICY_CURE = (
    f"choose {', '.join(WITHOUT_MODEL)}, base, sft, rl, the folder of an adapter or a run, "
    "or openai:<model>@<url>"
)
# what an adapter was trained with
_COMMON = (
    *("model", "coder", "backend", "reply_format", "prompt_style"),
    *("precision", "four_bit", "prompt_tokens"),
)
_FILE = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Plan:
    """Who shall act and who shall code, with nothing loaded yet.

    Attributes:
        name: Of the agent: its row in tables, its folder in a run.
        kind: A name of `WITHOUT_MODEL`, ``local`` or ``endpoint``.
        label: The policy in a few words, without path or key.
        coder: ``base``, ``rules`` or ``endpoint``.
        adapter: Folder of the LoRA adapter of a local policy; None for the base model.
        endpoint: Of the policy, where it is a server's.
        coder_endpoint: Of the coder, likewise.
    """

    name: str
    kind: str
    label: str
    coder: str
    adapter: Path | None = None
    endpoint: ChatEndpoint | None = None
    coder_endpoint: ChatEndpoint | None = None

    @property
    def coder_label(self) -> str:
        """The coder in a few words."""
        return f"openai:{self.coder_endpoint.model}" if self.coder_endpoint else self.coder

    def params(self) -> dict:
        """Return what identifies policy and coder in a manifest: no key, no path of this machine."""
        policy = {"label": self.label, "kind": self.kind}
        if self.adapter:
            policy["adapter_sha256"] = sha256_file(self.adapter / _WEIGHTS)
        if self.endpoint:
            policy |= Chat(self.endpoint).about()
        coder = {"label": self.coder_label}
        if self.coder_endpoint:
            coder |= Chat(self.coder_endpoint).about()
        return {"policy": policy, "coder": coder}


def find_adapter(policy: str, run: Path | None) -> Path | None:
    """Return the adapter folder that a policy names, or None for ``base``.

    Args:
        policy: ``base``, ``sft``, ``rl``, or a folder: an adapter's, or a run's, whose RL adapter is taken.
        run: The run that ``sft`` and ``rl`` are of.

    Raises:
        RunError: There is no adapter.
    """
    if policy == "base":
        return None
    if policy in ADAPTERS:
        found = (run or Path()) / ADAPTERS[policy]
        if run is None or not _is_adapter(found):
            raise RunError(
                f"the run {run} has no finished adapter {ADAPTERS[policy]}",
                cure="make it with 'mlagent run', or name another run with --run",
            )
        return found
    folder = Path(policy).expanduser()
    for found in (folder, folder / ADAPTERS["rl"]):
        if _is_adapter(found):
            return found
    if folder.exists():
        raise RunError(
            f"{folder} holds neither an adapter ({_FILE} and {_WEIGHTS}) nor a run with {ADAPTERS['rl']}",
            cure="give the folder of an adapter, e.g. runs/laptop-seed0/03_grpo/adapter, or of a run",
        )
    raise RunError(f"policy {policy!r} is unknown, and no folder", cure=POLICY_CURE)


def _is_adapter(folder: Path) -> bool:
    return (folder / _FILE).is_file() and (folder / _WEIGHTS).is_file()


def profile_for(policy: str, run: Path | None, name: str | None) -> Profile:
    """Return the profile to act under: the one named, else the one that made the adapter or the run.

    Raises:
        ProfileError: It is unknown.
    """
    if name is not None:
        return get_profile(name)
    is_folder = policy not in (*WITHOUT_MODEL, *POLICIES) and not policy.startswith("openai:")
    adapter = find_adapter(policy, run) if policy in ADAPTERS or is_folder else None
    recorded = read_record(adapter.parent / "manifest.json").get("profile") if adapter else None
    if isinstance(recorded, dict) and "name" in recorded:
        known = {key: recorded[key] for key in _COMMON if key in recorded}
        return get_profile(recorded["name"]).with_values(recorded["name"], **known)
    return get_profile(read_record(run / RUN_RECORD).get("profile", "laptop") if run else "laptop")


def read_record(path: Path) -> dict:
    """Return a JSON object from a file, empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def plan(policy: str, profile: Profile, *, coder: str = "", run: Path | None = None, name: str = "") -> Plan:
    """Return who shall act and who shall code.

    Args:
        policy: See the head of this module.
        profile: Its model is the one that an adapter must fit.
        coder: ``base``, ``rules`` or ``openai:<model>@<url>``; "" for the profile's.
        run: The run that ``sft`` and ``rl`` are of.
        name: Of the agent; "" to make one of the policy's.

    Raises:
        ProfileError: A name is unknown or taken, or holds a key.
        RunError: An adapter is missing or fits another model.
        EndpointError: An endpoint's name has another form.
    """
    chosen = coder or profile.coder
    for spec in (policy, chosen):
        _refuse_key(spec)
    coder_endpoint = None
    if chosen not in ("base", "rules"):
        coder_endpoint = parse_endpoint(chosen, max_tokens=CODER_MAX_TOKENS)
    fields = {"coder": "endpoint" if coder_endpoint else chosen, "coder_endpoint": coder_endpoint}
    if policy in WITHOUT_MODEL:
        return Plan(_name(name or f"agent-{policy}"), policy, policy, **fields)
    if policy.startswith("openai:"):
        endpoint = parse_endpoint(policy)
        label = f"openai:{endpoint.model}"
        return Plan(_name(name or endpoint.model), "endpoint", label, endpoint=endpoint, **fields)
    adapter = find_adapter(policy, run)
    if adapter:
        _check_fit(adapter, profile.model)
    label = policy if adapter is None or policy in ADAPTERS else _short(adapter)
    return Plan(_name(name or f"agent-{label}"), "local", label, adapter=adapter, **fields)


def _refuse_key(spec: str) -> None:
    """Raise `ProfileError` where a name holds a key: names are shown and written down."""
    variables = {API_KEY_ENV, *re.findall(r"key_env=([A-Z_][A-Z0-9_]*)", spec)}
    for variable in sorted(variables):
        key = os.environ.get(variable) and read_key(variable)
        if key and len(key) >= MIN_SECRET_LENGTH and key in spec:
            raise ProfileError(
                f"the name of a policy or coder holds the key in ${variable}",
                cure=f"take it out: it is read from ${variable}",
            )


def _name(text: str) -> str:
    """Return a name as a folder may have it.

    Example:
        >>> _name("org/qwen2.5:7b")
        'org-qwen2.5-7b'
    """
    name = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")[:60]
    if not name or name in (*POLICIES, "expert"):
        raise ProfileError(f"an agent cannot be called {text[:60]!r}", cure="choose another --name")
    return name


def _short(adapter: Path) -> str:
    """Return the last names of an adapter's path that tell it from others.

    Example:
        >>> _short(Path("/x/runs/laptop-seed0/03_grpo/adapter"))
        'laptop-seed0-03_grpo'
    """
    names = [part for part in adapter.resolve().parts if part != "adapter"]
    return "-".join(names[-2:])


def _check_fit(adapter: Path, model: str) -> None:
    """Raise `RunError` where an adapter was trained on another model than the profile loads."""
    from mlagent_lib.training.backends import model_path

    trained_on = str(read_record(adapter / _FILE).get("base_model_name_or_path") or "")
    have, want = (Path(name).name.lower() for name in (trained_on, model_path(model)))
    if have and want not in have:
        raise RunError(
            f"the adapter {adapter} was trained on {have!r}, and the profile loads {want!r}",
            cure="name the profile that it was trained under with --profile",
        )


@dataclass
class Actor:
    """Policy and coder ready to act, and how to ask what they cost.

    Attributes:
        policy: Who acts.
        coder: Who writes edits.
        ledger: Calls of both.
        coder_chat: The coder's model, where it is a server's.
    """

    policy: Policy
    coder: Coder
    ledger: Ledger
    coder_chat: Chat | None = None

    def costs(self, rows: Sequence[Mapping], prices: Mapping[str, Price]) -> list[dict]:
        """Return the table of costs of these trajectories (see `cost_rows`)."""
        edits = edits_of(rows, self.coder_chat.key) if self.coder_chat else {}
        return cost_rows(self.ledger.calls, prices, edits)


def edits_of(rows: Sequence[Mapping], key: Callable[[list[dict]], str]) -> dict[str, list[str]]:
    """Return for each conversation with a coder the trajectories that asked for that edit, in order.

    Args:
        rows: Trajectories.
        key: Names a conversation (see `reply_key`).
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        for step in row["steps"]:
            if step["action"] != "Edit Script (AI)" or step["reason"] == "tool":  # then no coder was asked
                continue
            asked = step["action_input"]
            script = read_text(State.from_json(step["state"]).files, asked["script_name"])
            name = key(chat_messages(script, asked["edit_instruction"]))
            found.setdefault(name, []).append(row["id"])
    return found


def make_actor(lab: Lab, chosen: Plan, ledger: Ledger, cache: ReplyCache | None) -> Actor:
    """Return policy and coder of a plan, models loaded.

    Args:
        lab: The run; its profile names the local model.
        chosen: Who.
        ledger: Where calls to servers are written down.
        cache: Replies that are known already.
    """
    coder_chat = coder = None
    if chosen.coder_endpoint:
        coder_chat = Chat(chosen.coder_endpoint, role="coder", cache=cache, ledger=ledger)
        coder = ChatCoder(coder_chat.reply, workers=coder_chat.workers)
    local = lab.profile.with_values(lab.profile.name, coder="rules" if coder else chosen.coder)
    if chosen.kind == "local":
        lab.profile = local
        _quiet()
        agent = local_agent(lab, chosen.name, chosen.adapter)
        return Actor(agent.policy, coder or agent.tools.coder, ledger, coder_chat)
    if coder is None:
        if chosen.coder == "base":
            _quiet()
        coder = make_coder(replace(lab, profile=local))
    if chosen.endpoint:
        chat = Chat(chosen.endpoint, cache=cache, ledger=ledger)
        policy: Policy = ChatPolicy(
            chat, name=chosen.name, reply_format=lab.profile.reply_format, seed=lab.seed
        )
    elif chosen.kind == "scripted":
        policy = ScriptedExpert(reply_format=lab.profile.reply_format)
    else:
        policy = baseline_policy(chosen.kind)
    return Actor(policy, coder, ledger, coder_chat)


def _quiet() -> None:
    """Switch off the progress bars of the model library: they would break the lines of ours."""
    from mlagent_lib.run.stages import quiet

    quiet()
