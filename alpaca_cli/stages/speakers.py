"""Opening a speaker: a model of this machine, or one behind an endpoint.

What a speaker is, is said in `alpaca_cli.stages.speaker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import newest_model
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.stages.chat_session import Session, change
from alpaca_cli.stages.endpoint_speaker import open_endpoint
from alpaca_cli.stages.local_speaker import open_local
from alpaca_cli.stages.speaker import Speaker


def open_speaker(
    name: str | None,
    runs: Path,
    progress: Progress,
    *,
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    flags: Mapping[str, object],
) -> Speaker:
    """The model of that name, the newest finished run's when none is named.

    Its sampling is the model's own default but for what flags say.

    Args:
        runs: the folder in which the newest run is looked for.
        base_url: the endpoint that has the model; None for a model of this machine.
        api_key_env: the environment variable that holds the endpoint's key.
        flags: setting -> value, None where not given.

    Raises:
        UsageError: a flag's value is outside its range; the address is none.
        DataError: there is no such model, or it cannot be loaded.
        ResourceError: it does not fit into memory.
        TeacherError: the endpoint's key is not set.
    """
    _flagged(Sampling(), flags)  # before a model is loaded
    if base_url is not None:
        endpoint = open_endpoint(name, base_url, api_key_env)
        return replace(endpoint, sampling=_flagged(endpoint.sampling, flags))
    if name is None:
        name = str(newest_model(runs))
        progress.info(f"model: {name} (the newest finished run)")
    local = open_local(name, progress)
    local.sampling = _flagged(local.sampling, flags)
    return local


def begin(speaker: Speaker, *, system: str = "", input: str = "") -> Session:
    """A conversation with a speaker, with its own defaults."""
    return Session(speaker.sampling, history=speaker.history, system=system, input=input)


def passed_on(session: Session, before: Speaker, after: Speaker) -> Session:
    """A conversation that goes on with another speaker.

    What the person has set stays; what was the first one's default becomes the other's.
    """
    old, new, now = before.sampling, after.sampling, session.sampling
    names = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")
    changed = {
        name: getattr(new, name) for name in names if getattr(now, name) == getattr(old, name)
    }
    history = after.history if session.history == before.history else session.history
    return replace(session, sampling=replace(now, **changed), history=history)


def _flagged(sampling: Sampling, flags: Mapping[str, object]) -> Sampling:
    session = Session(sampling)
    for name, value in flags.items():
        if value is not None:
            session = change(session, name, str(value))
    return session.sampling
