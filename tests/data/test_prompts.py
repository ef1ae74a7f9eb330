"""Requests are a pure function of (recipe, n, seeds), and say what is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Generate
from alpaca_cli.data.demonstrations import Chooser
from alpaca_cli.data.pool import Pool
from alpaca_cli.data.prompts import Request, RequestBuilder

SEEDS = [
    Example(f"Do thing {n}.", f"input {n}" * (n % 2), f"done {n}", id=f"s{n}") for n in range(9)
]


def builder(protocol: str = "auto", *, seed: int = 42, **settings: Any) -> Callable[[int], Request]:
    """Request n of a run that has kept nothing yet."""
    teacher = {"kind": "openai", "model": "m", "protocol": protocol}
    generate = Generate.model_validate({"teacher": teacher} | settings)
    build, choose = RequestBuilder(generate), Chooser(generate.demonstrations, seed, SEEDS)
    pool = Pool(generate, SEEDS)
    return lambda n: build(n, choose(n, pool))


def test_demonstrations_are_the_same_everywhere() -> None:
    """Literals: another order on another Python or platform would break resumed runs."""
    shown = [builder()(n).demonstrations for n in range(4)]
    assert shown == [
        ("s1", "s8", "s4"),
        ("s4", "s0", "s7"),
        ("s6", "s0", "s4"),
        ("s1", "s7", "s4"),
    ]


def test_a_request_depends_on_nothing_but_its_number() -> None:
    straight = [builder()(n).hash for n in range(20)]
    order = list(range(20))
    random.Random(0).shuffle(order)
    shuffled = builder()
    assert {n: shuffled(n).hash for n in order} == dict(enumerate(straight))
    assert len(set(straight)) == 20


def test_every_seed_is_shown_about_equally_often() -> None:
    build = builder()
    shown = [name for n in range(900) for name in build(n).demonstrations]
    for seed in SEEDS:
        assert 240 < shown.count(str(seed.id)) < 360


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 43},
        {"tasks_per_request": 19},
        {"demonstrations": 2},
        {"protocol": "chat-text"},
        {"teacher": {"kind": "openai", "model": "other"}},
        {"teacher": {"kind": "openai", "model": "m", "temperature": 0.5}},
        {"teacher": {"kind": "openai", "model": "m", "extra_body": {"top_k": 1}}},
    ],
)
def test_what_shapes_the_reply_shapes_the_hash(change: dict[str, Any]) -> None:
    assert builder(**change)(0).hash != builder()(0).hash


def test_what_does_not_shape_the_reply_leaves_the_hash() -> None:
    moved = {"kind": "openai", "model": "m", "base_url": "http://localhost:1/v1", "timeout": 3,
             "price": {"input": 1, "output": 2}}  # fmt: skip
    other = builder(teacher=moved, target=7, novelty=0.1, concurrency=3, max_cost=1)
    assert other(0).hash == builder()(0).hash


def parts(request: Request) -> tuple[str, str]:
    system, user = request.body["messages"]
    return system["content"], user["content"]


def test_json_form() -> None:
    request = builder(tasks_per_request=7)(0)
    system, user = parts(request)
    assert parts(builder()(5))[0] == system, "the rules come first and never change"
    assert "Write 7 new tasks" in user
    shown = json.loads(user[user.index("{") : user.rindex("}") + 1])["tasks"]
    by_id = {seed.id: seed for seed in SEEDS}
    assert shown == [
        {"instruction": s.instruction, "input": s.input, "output": s.output}
        for s in (by_id[name] for name in request.demonstrations)
    ]
    assert request.tasks == 7


def test_text_form() -> None:
    _, user = parts(builder("chat-text")(0))
    assert "3. Instruction: Do thing 4.\n3. Input:\n<noinput>\n3. Output:\ndone 4\n\n" in user
    assert "1. Input:\ninput 1\n1. Output:\ndone 1\n###\n2." in user


def test_completion_form_ends_inside_the_first_new_task() -> None:
    request = builder("completion", tasks_per_request=17)(0)
    prompt = request.body["prompt"]
    assert prompt == request.text
    assert prompt.endswith("3. Output:\ndone 4\n###\n4. Instruction:")
    assert request.opening == "4. Instruction:"
    assert "List of 20 tasks" in prompt
    assert request.body["stop"] == ["\n###\n21.", "\n21. Instruction"]


@pytest.mark.parametrize("protocol", ["auto", "chat-text", "completion"])
def test_no_demonstrations(protocol: str) -> None:
    request = builder(protocol, demonstrations=0)(3)
    assert request.demonstrations == ()
    assert "Do thing" not in request.text
    assert "20 new tasks" in request.text


def test_fewer_seeds_than_demonstrations() -> None:
    assert sorted(builder(demonstrations=20)(0).demonstrations) == [f"s{n}" for n in range(9)]


def test_the_wording_has_a_version() -> None:
    """Changing the wording orphans half-finished runs: do it knowingly, and say so."""
    assert RequestBuilder(Generate()).wording() == "d51df9243931"
