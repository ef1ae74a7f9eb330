"""A provider's files and batches: one call at a time, repeated while that can help.

Answers are read as JSON here, not by the SDK, which takes HTML for a reply. A call that fails in
a passing way is made again, with full jitter, as long as the teacher's patience lasts; a stop
waits for no call. Which calls are safe to repeat is the caller's business.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from alpaca_cli.core.errors import AlpacaError, TeacherError, TryAgain
from alpaca_cli.core.files import disk_error
from alpaca_cli.data.batch_files import whole_lines
from alpaca_cli.data.endpoint import Endpoint, classified, redacted
from alpaca_cli.data.teacher import Busy

if TYPE_CHECKING:
    import openai

PAGE = 100  # batches in one answer
Entry = Mapping[str, Any]
T = TypeVar("T")


class StoppedEarly(Exception):
    """Waiting was cut short by `BatchClient.stop`."""


class BatchClient:
    """Files and batches of one endpoint.

    Attributes:
        failures: calls that failed in a row.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.failures = 0
        self._endpoint, self._client = endpoint, endpoint.client
        self._stopped = asyncio.Event()
        self._jitter = random.Random()  # decides when a call is repeated, never what is kept

    @property
    def base_url(self) -> str:
        """Where the calls go."""
        return str(self._client.base_url)

    def stop(self) -> None:
        """Let every call and rest end in StoppedEarly."""
        self._stopped.set()

    # --- calls ------------------------------------------------------------------------------------

    async def upload(self, filename: str, data: bytes) -> str:
        """Upload the requests of a batch; returns the file's id."""
        files = self._client.files.with_raw_response
        answer = await files.create(file=(filename, data), purpose="batch")
        return str(_object(answer.content)["id"])

    async def create(self, file_id: str, url: Any, name: str) -> str:
        """Submit a batch that carries a name of ours; returns its id."""
        answer = await self._client.batches.with_raw_response.create(
            input_file_id=file_id,
            endpoint=url,
            completion_window="24h",
            metadata={"alpaca": name},
        )
        return str(_object(answer.content)["id"])

    async def look(self, batch_id: str) -> Entry:
        """The batch as it is now."""
        answer = await self._client.batches.with_raw_response.retrieve(batch_id)
        return _object(answer.content, "status")

    async def find_file(self, filename: str) -> str | None:
        """The id of an uploaded file; None when none of that name is listed."""
        import openai

        files = self._client.files.with_raw_response
        try:
            return await _find(
                lambda **after: files.list(purpose="batch", **after),
                lambda file: file.get("filename") == filename,
            )
        except openai.APIStatusError as error:
            if error.status_code in (404, 405):  # llmock lists none; to upload again costs nothing
                return None
            raise

    async def find_batch(self, name: str, file_id: str | None) -> str | None:
        """The id of the batch with a name of ours, or made of that file; None for none."""
        batches = self._client.batches.with_raw_response

        def ours(batch: Entry) -> bool:
            named = batch.get("metadata") or {}
            return named.get("alpaca") == name or batch.get("input_file_id") == (file_id or name)

        return await _find(lambda **after: batches.list(limit=PAGE, **after), ours)

    async def download(self, file_id: str, least: int, folder: Path) -> IO[bytes]:
        """A file as a temporary one in the folder, whole or not at all.

        Raises:
            ValueError: it is torn, or has fewer lines than `least`.
            ResourceError: the disk is full.
        """
        streaming = self._client.files.with_streaming_response
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            async with streaming.content(file_id) as response:
                async for chunk in response.iter_bytes():
                    try:
                        file.write(chunk)
                    except OSError as error:
                        raise disk_error(error, folder) from error
            if (lines := await asyncio.to_thread(whole_lines, file)) < least:
                raise ValueError(f"{lines:,} of {least:,} lines")
            stack.pop_all()
        return file

    # --- patience ---------------------------------------------------------------------------------

    async def patiently(self, call: Callable[[], Awaitable[T]], least: float = 0) -> T:
        """The result of a call, repeated while it fails in ways that another may cure.

        Args:
            least: seconds between two calls at least.

        Raises:
            TeacherError: it was refused.
            TryAgain: it has failed for longer than the teacher's patience.
            StoppedEarly: see `stop`.
        """
        import httpx2
        import openai

        clock = asyncio.get_running_loop().time
        since: float | None = None
        while True:
            wait = None
            try:
                result = await self._unless_stopped(call())
            except openai.APIStatusError as error:
                busy = self._judged(error)
                message, wait = busy.message, busy.wait
            except (openai.APIConnectionError, httpx2.HTTPError) as error:
                message = f"cannot reach it: {error.__cause__ or error}"
            except ValueError as error:
                message = f"not an answer: {error}"
            else:
                self.failures = 0
                return result
            self.failures += 1
            if wait is None:
                wait = self._jitter.uniform(0, min(60, 0.5 * 2**self.failures))
            wait = max(wait, least)
            since = clock() if since is None else since
            if clock() + wait - since > self._endpoint.settings.patience:
                raise TryAgain(
                    f"the Batch API does not work: {redacted(message, self._endpoint.key)}",
                    hint="everything is kept; the same command later goes on from here",
                )
            await self.rest(wait)

    def _judged(self, error: openai.APIStatusError) -> Busy:
        """What is wrong, if it passes.

        Raises:
            TeacherError: it does not.
        """
        problem = classified(error, self._endpoint.settings, self._endpoint.key, {})
        if isinstance(problem, Busy):
            return problem
        if isinstance(problem, AlpacaError):
            raise problem from error
        raise TeacherError(f"the teacher refused: {getattr(problem, 'message', '')}") from error

    async def _unless_stopped(self, call: Awaitable[T]) -> T:
        tasks = asyncio.ensure_future(call), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise StoppedEarly
            return tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def rest(self, seconds: float) -> None:
        """Wait.

        Raises:
            StoppedEarly: see `stop`.
        """
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return
        raise StoppedEarly


def _object(content: bytes, *needed: str) -> Entry:
    """The JSON object in an answer; ValueError when it is none, or has no id."""
    value = json.loads(content)
    if not isinstance(value, dict) or not {"id", *needed} <= value.keys():
        raise ValueError(" ".join(content[:200].decode("utf-8", "replace").split()))
    return value


async def _find(
    listed: Callable[..., Awaitable[Any]], wanted: Callable[[Entry], bool]
) -> str | None:
    """The id of the first wanted entry of a list at the provider, over all its pages."""
    after: dict[str, str] = {}
    while True:
        page = json.loads((await listed(**after)).content)
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise ValueError(f"not a list: {str(page)[:200]}")
        for entry in page["data"]:
            if wanted(entry):
                return str(entry["id"])
        before = after
        after = {"after": str(page["data"][-1]["id"])} if page["data"] else before
        if not page.get("has_more") or after == before:
            return None
