"""Sending an exported folder to a hub: checked, shown, and only then done.

A repository is private unless asked otherwise, and one that exists is never more public than
asked. What is sent is what lies in the folder; who it is sent for is the token that
`hf auth login` stored or HF_TOKEN holds, and is never shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alpaca_cli.core.errors import DataError, TryAgain, UsageError


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository on a hub."""

    name: str
    private: bool

    @property
    def visibility(self) -> str:
        return "private" if self.private else "public"


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a repository; nothing is asked of a hub.

    Raises:
        UsageError: says what a name looks like.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--push {name}: {str(error).splitlines()[0]}") from error
    if name.count("/") != 1:
        raise UsageError(f"--push {name}: no owner", hint="--push owner/name")


def check_token() -> None:
    """Refuse to begin what cannot be sent.

    Raises:
        UsageError: nobody is logged in.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise UsageError(
            "--push: no token for the hub",
            hint="hf auth login stores one, or set HF_TOKEN; --dry-run needs none",
        )


def push(folder: Path, destination: Destination) -> str:
    """Create the repository if there is none and upload the folder in one commit; its address.

    Raises:
        UsageError: the hub refuses, or the repository exists and is public.
        TryAgain: the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    with _hub_errors(destination.name):
        url = api.create_repo(destination.name, private=destination.private, exist_ok=True)
        if destination.private and not api.model_info(destination.name).private:
            raise UsageError(
                f"{destination.name} exists and is public; nothing was sent",
                hint="--public if that is meant, or another name",
            )
        api.upload_folder(
            repo_id=destination.name, folder_path=folder, commit_message="Export of alpaca"
        )
    return str(url)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """The ways in which a hub says no, as our errors."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UsageError("--push: HF_HUB_OFFLINE is set", hint="unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        first = str(error.server_message or error).strip().splitlines()[0]
        if status in (401, 403):
            raise UsageError(
                f"{name}: the hub refuses this token: {first}",
                hint="a token with write access: hf auth login, or HF_TOKEN",
            ) from error
        if status == 429 or status >= 500:
            raise TryAgain(f"{name}: the hub is busy ({status}): {first}") from error
        raise DataError(f"{name}: the hub refuses this upload ({status}): {first}") from error
    except (httpx.TransportError, ConnectionError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TryAgain(f"{name}: the hub cannot be reached: {first}") from error
