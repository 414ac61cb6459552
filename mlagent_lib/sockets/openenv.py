"""The desk behind OpenEnv: ``reset``, ``step`` and ``state`` over a websocket, the Task API over HTTP.

Needs the extra: ``pip install 'mlagent-kit[openenv]'``. A websocket is a session with its own place in a
trajectory; what one is told never depends on another. Over plain HTTP, where no session exists, a step brings
its state along.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, WebSocketDisconnect
from fastapi.responses import JSONResponse
from openenv.core.env_server import (
    Action,
    ConcurrencyConfig,
    Environment,
    Observation,
    State,
    create_fastapi_app,
)
from openenv.core.env_server.types import EnvironmentMetadata
from pydantic import Field

from mlagent_lib import __version__
from mlagent_lib.core.errors import MlagentError, Unscored
from mlagent_lib.sockets.desk import Desk, DeskSession, Told

NAME = "mlagent"
SESSIONS = 64  # ours: the soak holds 50 on two cores
SILENT_SECONDS = 120.0  # ours: a client that answers no ping for so long is gone; a busy one is only slow
_ASKED = ("task", "split", "index", "seed", "state", "prompt")  # what a reset knows
MOST_BYTES = 64 << 20  # of one message: a reply or a state that is too large is refused by name, not cut off


class AgentReply(Action):
    """The action: what the agent says."""

    text: str = Field(description="The agent's reply in the six-field format")
    state: str | dict[str, Any] | None = Field(
        default=None, description="Id or JSON of the saved state to step from; the present one if none"
    )


class TaskObservation(Observation):
    """What the agent sees, and where it is.

    Its metadata are for the trainer: scores before and after, seconds, whether the result was known already.
    """

    text: str = Field(default="", description="What the agent sees")
    task: str = Field(default="", description="Name of the task")
    split: str = Field(default="", description="held-in, held-out or other")
    step: int = Field(default=0, description="Steps from the starter")
    state_id: str = Field(default="", description="Id of the saved state after the step")
    outcome: str = Field(default="", description="invalid, error, neutral, corner or edited")
    reason: str = Field(default="", description="Why, as a fixed class name")
    prompt: list[dict[str, str]] = Field(default_factory=list, description="What a policy answers next")


class ServedState(State):
    """Where a session is: ``saved`` can be given to ``reset`` and ``step`` here or on any other server."""

    task: str = ""
    state_id: str = ""
    saved: dict[str, Any] | None = None
    counts: dict[str, int] = Field(default_factory=dict, description="Of the whole server")


class DeskEnvironment(Environment):
    """One session as OpenEnv calls it."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, desk: Desk):
        super().__init__()
        self._desk, self._session, self._episode = desk, DeskSession(desk), None
        # three of the five methods of OpenEnv's task API; the two others are below
        self.list_splits, self.list_tasks, self.get_task = desk.splits, desk.listed, desk.entry

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, injected_state: Any = None, **asked: Any
    ) -> TaskObservation:
        """Return the first observation; what can be asked for are the words of `DeskSession.reset`.

        ``injected_state`` is OpenEnv's word for ``state``.
        """
        if unknown := asked.keys() - set(_ASKED):
            cure = f"known are {', '.join(_ASKED)}, episode_id"
            self._desk.count("refused")
            raise MlagentError(f"reset does not know {', '.join(sorted(unknown))}", cure=cure)
        self._episode = episode_id
        if asked.get("state") is None:
            asked["state"] = injected_state
        return self._tell(partial(self._session.reset, seed=seed, **asked))

    def step(self, action: AgentReply, timeout_s: float | None = None, **_: Any) -> TaskObservation:
        """Return the observation, the reward and the outcome of one reply, see `DeskSession.step`.

        Scripts have the time limit of their task; ``timeout_s`` is not read.
        """
        return self._tell(partial(self._session.step, action.text, action.state))

    def _tell(self, call: Any) -> TaskObservation:
        try:
            told: Told = call()
        except Exception as error:
            is_callers = isinstance(error, MlagentError) and not isinstance(error, Unscored)
            self._desk.count("refused" if is_callers else "unscored")
            raise
        state, result = told.state, told.result
        metadata = {}
        if result is not None:
            names = ("score_before", "score_after", "seconds", "cache_hit", "tier")
            metadata = {name: getattr(result, name) for name in names}
            metadata["truncated"] = told.ended and not state.done
        return TaskObservation(
            done=told.ended, reward=told.reward, metadata=metadata, text=told.text, task=state.task,
            split=self._desk.tasks[state.task].split, step=state.step, state_id=told.state_id,
            outcome=told.outcome, reason=result.reason if result else "", prompt=list(told.prompt),
        )  # fmt: skip

    @property
    def state(self) -> ServedState:
        """Return where the session is, and what the server has counted."""
        saved, at = self._session.state, {}
        if saved is not None:
            at = {"step_count": saved.step, "task": saved.task, "state_id": saved.id}
            at["saved"] = saved.to_json()
        return ServedState(episode_id=self._episode, counts=dict(self._desk.counts), **at)

    def get_metadata(self) -> EnvironmentMetadata:
        """Return name, version and what is served."""
        told = f"Machine-learning engineering on {len(self._desk.tasks)} tasks"
        told += "; any saved state can be restored."
        return EnvironmentMetadata(name=NAME, description=told, version=__version__)

    def num_tasks(self, split: str) -> int:
        """Return how many rows a split has."""
        return len(self._desk.listed(split))

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[dict]:
        """Return the rows from ``start`` to before ``stop``."""
        return self._desk.listed(split)[start:stop]

    def close(self) -> None:
        """Forget the session's place; saved states stay where they are."""
        self._session.state = None


def build_app(desk: Desk, sessions: int = SESSIONS) -> FastAPI:
    """Return the web application of a desk.

    Args:
        sessions: How many websockets it holds at a time; one more is told so and closed.
    """
    limits = ConcurrencyConfig(max_concurrent_envs=sessions, session_timeout=None)
    app = create_fastapi_app(
        partial(DeskEnvironment, desk), AgentReply, TaskObservation, concurrency_config=limits,
        env_name=NAME, state_cls=ServedState,
    )  # fmt: skip

    @app.exception_handler(MlagentError)
    async def refuse(request: Request, error: MlagentError) -> JSONResponse:
        status = 503 if isinstance(error, Unscored) else 400
        return JSONResponse({"detail": str(error)}, status_code=status)

    return app


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a record is more than OpenEnv's answer to a client that has gone meanwhile."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, WebSocketDisconnect) and type(error).__name__ != "WebSocketDisconnected"


def serve(desk: Desk, host: str, port: int, sessions: int = SESSIONS) -> None:
    """Serve a desk until the process is told to stop."""
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    uvicorn.run(
        build_app(desk, sessions), host=host, port=port, ws_max_size=MOST_BYTES,
        ws_ping_timeout=SILENT_SECONDS, log_level="warning",
    )  # fmt: skip
