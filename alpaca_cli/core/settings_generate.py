"""The keys of `generate`: the teacher, what it is asked, how fast, and for how much money."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from alpaca_cli.core.section import Section
from alpaca_cli.core.settings_filters import Filters


class Price(Section):
    """What a teacher costs, in USD per million tokens."""

    input: float = Field(ge=0)
    """Prompt tokens."""

    cached_input: float | None = Field(None, ge=0)
    """Prompt tokens read from the provider's cache; the input price when not given."""

    cache_write: float | None = Field(None, ge=0)
    """Prompt tokens written to the provider's cache; the input price when not given."""

    output: float = Field(ge=0)
    """Completion tokens, hidden reasoning included."""

    batch: float = Field(1.0, gt=0, le=1)
    """What the Batch API costs, as a share of these prices: 0.5 where it is half price."""

    flex: float = Field(1.0, gt=0, le=1)
    """What replies of the service tier `flex` cost, as a share of these prices. A reply is priced
    by the tier that it names."""


class ProceduralTeacher(Section):
    """The embedded teacher: no network, no key, answers that are computed."""

    kind: Literal["procedural"] = "procedural"
    """This teacher."""

    mistakes: float = Field(0.02, ge=0, le=0.5)
    """Share of items in which it makes a mistake that LLMs make (for parser and filters)."""

    families: list[str] = Field([])
    """Task families it draws from; all of them when empty. `alpaca eval` asks the same ones."""


# Fields of a request that have keys of their own, or would bring more than one reply is paid for.
OURS = frozenset({
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "best_of", "stream",
    "stop", "response_format", "temperature", "top_p", "service_tier",
})  # fmt: skip


class OpenAITeacher(Section):
    """Any endpoint that speaks the OpenAI HTTP protocol."""

    kind: Literal["openai"]
    """This teacher."""

    model: str
    """Model name, as the endpoint calls it."""

    base_url: str | None = None
    """Endpoint, e.g. `http://127.0.0.1:8000/v1`; OpenAI's (or `OPENAI_BASE_URL`) when not given."""

    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. The key itself is never in a recipe."""

    protocol: Literal["auto", "chat-json", "chat-text", "completion"] = "auto"
    """How tasks are asked for. `auto`: chat with a JSON schema; where the endpoint does not take
    one, a JSON object; where it takes neither, numbered text. What was found out is journalled
    and never asked again. `chat-json`: the same, but JSON asked for in words instead of text;
    `chat-text`: chat with numbered text; `completion`: the legacy endpoint, for base models. The
    parser accepts every reply form in each."""

    service_tier: Literal["default", "flex"] | None = None
    """Sent as it is; `flex` is half price at OpenAI, slower and at times unavailable (give it a
    `timeout` of 900). See `price.flex`. Tiers that cost more than the price are not offered."""

    temperature: float = Field(1.0, ge=0, le=2)
    """Sampling temperature; not sent when 1, the default everywhere."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling; not sent when 1."""

    max_output_tokens: int = Field(8192, ge=1)
    """Upper bound on the tokens of one reply, hidden reasoning included."""

    extra_body: dict[str, Any] = Field({})
    """Further fields of the request body, as the endpoint names them, e.g. `{reasoning_effort:
    none}` or `{chat_template_kwargs: {enable_thinking: false}}`. A null takes back a field that
    an extended recipe has set."""

    timeout: float = Field(300, gt=0)
    """Seconds to wait for one reply."""

    max_attempts: int = Field(6, ge=1)
    """How often one request is tried when it fails in ways that another attempt can cure. Replies
    that only say "too many requests" are not counted: see `patience`."""

    patience: float = Field(900, gt=0)
    """Seconds without a single reply after which an endpoint that keeps saying "too many requests"
    is left for later (exit 75)."""

    rpm: int | None = Field(None, ge=1)
    """Requests per minute that are sent at most. Limits that the endpoint tells in its
    `x-ratelimit-…` headers are kept without being asked for."""

    tpm: int | None = Field(None, ge=1)
    """Tokens per minute, prompts and completions together, that are asked for at most."""

    price: Price | None = None
    """Prices for the cost figures; unknown when not given."""

    @field_validator("extra_body")
    @classmethod
    def _nothing_that_we_send(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(OURS & {name for name, given in value.items() if given is not None}):
            raise ValueError(f"{name} is not for extra_body: budgets and replies depend on it")
        return value


def _teacher_tag(value: Any) -> Any:
    """`kind`; without one the embedded teacher is meant, which is the default."""
    if isinstance(value, dict):
        return value.get("kind", "procedural")
    return getattr(value, "kind", None)


Teacher = Annotated[
    Annotated[ProceduralTeacher, Tag("procedural")] | Annotated[OpenAITeacher, Tag("openai")],
    Discriminator(
        _teacher_tag,
        custom_error_type="teacher_kind",
        custom_error_message="must be a mapping whose kind is procedural or openai",
    ),
]


class Demonstrations(Section):
    """The tasks shown in a request. A bare number means so many seed tasks."""

    seed: int = Field(3, ge=0, le=20)
    """Seed tasks shown. Source: Stanford Alpaca, 3; self-instruct, 6."""

    pool: int = Field(0, ge=0, le=20)
    """Kept examples shown beside them, once there are any. Source: self-instruct, 2."""

    weighting: Literal["uniform", "yield"] = "uniform"
    """How seed tasks are drawn: all alike, or those more often whose requests kept more."""

    window: int = Field(256, ge=1)
    """With `pool` or `yield`, request n is built from what the requests up to n - window have
    kept: so it never depends on timing. No more requests than this are under way then."""

    max_words: int = Field(400, ge=1)
    """Seed tasks and kept examples with more words than this are not shown."""

    @property
    def from_pool(self) -> bool:
        """Whether requests depend on what earlier requests have kept."""
        return self.pool > 0 or self.weighting == "yield"


class Batch(Section):
    """The provider's Batch API: files of requests, answered within a day."""

    poll: float = Field(30, gt=0)
    """Seconds between two looks at a batch."""

    max_requests: int = Field(50_000, ge=1, le=50_000)
    """Requests in one batch at most. Source: OpenAI's limit."""


class Judge(Section):
    """A model that scores candidates from 1 to 5; those below the threshold are rejected."""

    teacher: OpenAITeacher
    """Who judges; its protocol is chat. Scores are journalled with the judge's name and never
    asked for again."""

    threshold: float = Field(4.0, ge=1, le=5)
    """Candidates that score less are rejected as `judged_low`. Source: AlpaGasus, 4.5 of 5."""

    max_cost: float | None = Field(None, gt=0)
    """USD for judging alone, beside `generate.max_cost`; needs `teacher.price`."""

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> Judge:
        if self.max_cost is not None and self.teacher.price is None:
            raise ValueError("max_cost needs teacher.price: without it spending is unknown")
        return self


class Generate(Section):
    """Self-instruct: the teacher writes new tasks from a few demonstrations."""

    target: int = Field(100, ge=1)
    """How many examples to keep."""

    tasks_per_request: int = Field(20, ge=1, le=200)
    """New tasks asked for in one request."""

    prompt: str = "default"
    """`default`, or the path of a file with a prompt of your own: `{{tasks}}` and
    `{{demonstrations}}` are filled in; see the README."""

    demonstrations: Demonstrations = Demonstrations()

    teacher: Teacher = ProceduralTeacher()
    """Who writes the tasks."""

    mode: Literal["online", "batch"] = "online"
    """`batch`: through the provider's Batch API, often at half price (`price.batch`), within a day.
    The first request still goes online, to find out how the endpoint is asked. Online and batch
    runs share the journal and continue each other; a batch that is open is collected first."""

    batch: Batch = Batch()

    concurrency: int = Field(16, ge=1, le=1024)
    """Requests in flight at most. An endpoint that says "too many requests" gets fewer, and then
    step by step more again."""

    novelty: float = Field(0.7, gt=0, le=1)
    """A candidate whose ROUGE-L F1 with a seed or kept example is above this is rejected."""

    novelty_key: Literal["instruction", "instruction+input"] = "instruction"
    """The text that the novelty check compares."""

    filters: Filters = Filters()

    judge: Judge | None = None
    """Score candidates with a model before they are kept; off when not given."""

    min_yield: float = Field(0.5, ge=0)
    """Stop when the last 50 requests kept fewer examples than this per request: the teacher has
    nothing new to say. 0 never stops."""

    max_requests: int | None = Field(None, ge=1)
    """Send no more requests than this, repeated attempts that may have been billed included."""

    max_tokens: int | None = Field(None, ge=1)
    """Prompt and completion tokens in all. No request is sent whose worst case could pass it."""

    max_cost: float | None = Field(None, gt=0)
    """USD. No request is sent whose worst case could take the spending above this; needs
    `teacher.price`."""

    @field_validator("demonstrations", mode="before")
    @classmethod
    def _a_number_of_seeds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"seed": value}
        return value

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> Generate:
        unknown = isinstance(self.teacher, OpenAITeacher) and self.teacher.price is None
        if self.max_cost is not None and unknown:
            raise ValueError("max_cost needs teacher.price: without it spending is unknown")
        return self

    @model_validator(mode="after")
    def _batches_need_an_endpoint(self) -> Generate:
        if self.mode == "batch" and not isinstance(self.teacher, OpenAITeacher):
            raise ValueError("mode: batch needs a teacher of kind openai")
        return self
