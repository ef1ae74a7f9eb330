"""curator (bespokelabs-curator) on the requests of `benchmarks/generate.py`, which runs this file.

curator needs other versions of our dependencies, and so an environment of its own; there this file
runs, with no other import of ours. It gets the same messages and parameters, the concurrency as
`max_concurrent_requests`, limits per minute that never hold it back (its defaults do), and the
plainer of its two displays. Its files go to an empty folder; telemetry, viewer and caches are off.
On the clock is the call, from the messages to the data set that it returns; a call with one
request comes before it, off the clock.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEVER_REACHED = 10**9  # a minute
SETTINGS = {
    "CURATOR_DISABLE_CACHE": "true",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
    "OPENAI_API_KEY": "none",
    "TELEMETRY_ENABLED": "false",
}


def curator(url: str, in_flight: int, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Send all requests but the first, which only warms up.

    Returns:
        `seconds`, those of `cpu` in all threads, and the number of `replies`.
    """
    # The tokenizer that curator would download otherwise comes with litellm.
    importlib.import_module("litellm.litellm_core_utils.default_encoding")
    module = importlib.import_module("bespokelabs.curator")
    parameters = {name: v for name, v in bodies[0].items() if name not in ("model", "messages")}
    llm = module.LLM(
        model_name=bodies[0]["model"],
        backend="openai",
        generation_params=parameters,
        backend_params={
            "base_url": url,
            "max_concurrent_requests": in_flight,
            "max_requests_per_minute": NEVER_REACHED,
            "max_tokens_per_minute": NEVER_REACHED,
            "max_retries": 0,
        },
    )
    prompts = [body["messages"] for body in bodies]
    llm(prompts[:1])
    (seconds, cpu), response = timed(lambda: llm(prompts[1:]))
    replies = sum(bool(row["response"]) for row in response.dataset)
    return {"seconds": seconds, "cpu": cpu, "replies": replies}


def timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds of wall and CPU time, and the result."""
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - started, time.process_time() - cpu), result


def main() -> None:
    parser = argparse.ArgumentParser(description="curator's part of benchmarks/generate.py")
    parser.add_argument("url")
    parser.add_argument("in_flight", type=int)
    parser.add_argument("requests", type=Path, help="JSON list of request bodies")
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Before it is imported: it writes to the home folder then.
        os.environ |= SETTINGS | {"HOME": folder, "CURATOR_CACHE_DIR": folder}
        result = curator(options.url, options.in_flight, json.loads(options.requests.read_text()))
    options.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
