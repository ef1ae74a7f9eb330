"""Asking a real tiny model: the prompt of training, streaming, batches, loading and its errors."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.template import ALPACA, TOKENIZER
from alpaca_cli.model.dialogue import Exchange, Sampling
from alpaca_cli.model.loading import Student, load_student
from alpaca_cli.model.locate import find_model, run_of
from alpaca_cli.model.rows import encode_rows
from alpaca_cli.model.sampling import Answer, answers, prompt_ids, stream
from tests.tiny import save_tiny_model

ASKED = [
    ("List three animals.", ""),
    ("Sort these numbers.", "4 1 9"),
    ("Is </s> a tomato <pad>?", ""),
    ("Say é, 日本 and 🦙.", "{instruction}"),
    ("Hi", ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return load_student(folder, "tiny")


def load(folder: Path) -> Student:
    return load_student(find_model(str(folder)), str(folder))


def said(student: Student, ids: list[int], sampling: Sampling) -> str:
    return "".join(piece.text for piece in stream(student, ids, sampling))


def answered(student: Student, batch: int, **more: Any) -> dict[int, Answer]:
    batches = answers(student, ASKED, max_new_tokens=40, batch=batch, **more)
    return {answer.index: answer for each in batches for answer in each}


def test_the_prompt_is_that_of_training_token_for_token(student: Student) -> None:
    examples = [Example(instruction, input, "Yes.") for instruction, input in ASKED]
    rows = encode_rows(examples, student.tokenizer, student.template, 512, "error").rows
    for (instruction, input), row in zip(ASKED, rows, strict=True):
        assert prompt_ids(student, instruction, input) == list(row.ids[: row.prompt])


def test_earlier_exchanges_stand_as_in_training(student: Student) -> None:
    [first] = encode_rows(
        [Example("Be kind.\n\nHi", "there", "Hello.")],
        student.tokenizer, student.template, 512, "error",
    ).rows  # fmt: skip
    assert first.ids[-1] == student.tokenizer.eos_token_id
    history = [Exchange("Hi", "there", "Hello.")]
    ids = prompt_ids(student, "Again", "please", history=history, system="Be kind.")
    assert ids[: len(first.ids)] == list(first.ids)
    # This tokenizer starts every stretch of user text with a space of its own.
    turn = student.tokenizer.decode(ids[len(first.ids) :]).replace("\n ", "\n")
    assert turn == "\n\n### Instruction:\nAgain\n\nplease\n\n### Response:"


def test_a_chat_template_gets_the_roles(student: Student) -> None:
    tokenizer = load(Path(student.model.config.name_or_path)).tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chatty = replace(student, tokenizer=tokenizer, template=TOKENIZER)
    [row] = encode_rows([Example("Sort.", "2 1", "1 2")], tokenizer, TOKENIZER, 512, "error").rows
    assert prompt_ids(chatty, "Sort.", "2 1") == list(row.ids[: row.prompt])
    history = [Exchange("Hi", "", "Hello.")]
    ids = prompt_ids(chatty, "Sort.", "2 1", history=history, system="Be kind.")
    assert tokenizer.decode(ids) == (
        "[system]Be kind.[user]Hi[assistant]Hello.[user]Sort.\n\n2 1[assistant]"
    )
    tokenizer.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(DataError, match="no system"):
        prompt_ids(chatty, "Hi", system="Be kind.")


def test_streamed_batched_and_alone_give_the_same_text(student: Student) -> None:
    alone, together = answered(student, 1), answered(student, 8)
    assert sorted(alone) == sorted(together) == list(range(len(ASKED)))
    for index, (instruction, input) in enumerate(ASKED):
        ids = prompt_ids(student, instruction, input)
        pieces = list(stream(student, ids, Sampling(max_new_tokens=40)))
        text = "".join(piece.text for piece in pieces)
        assert text == alone[index].text == together[index].text
        assert pieces[-1].tokens == alone[index].tokens == together[index].tokens
        assert pieces[-1].finish_reason == alone[index].finish_reason
        assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert {answer.finish_reason for answer in alone.values()} == {"stop", "length"}


def test_batches_are_the_same_when_work_goes_on(student: Student) -> None:
    straight = list(answers(student, ASKED, max_new_tokens=5, batch=2))
    first = {answer.index for answer in straight[0]}
    rest = list(answers(student, ASKED, max_new_tokens=5, batch=2, done=first))
    assert rest == straight[1:]
    # A batch of which one answer is missing is asked again as a whole.
    again = list(answers(student, ASKED, max_new_tokens=5, batch=2, done=list(first)[:1]))
    assert again == straight


def test_sampling_is_repeatable_and_greedy_at_its_limits(student: Student) -> None:
    ids = prompt_ids(student, "Hi")
    hot = Sampling(temperature=1.0, top_p=0.95, seed=7, max_new_tokens=20)
    assert said(student, ids, hot) == said(student, ids, hot)
    assert said(student, ids, hot) != said(student, ids, replace(hot, seed=8))
    greedy = said(student, ids, Sampling(max_new_tokens=20))
    assert said(student, ids, hot) != greedy
    assert said(student, ids, replace(hot, top_k=1)) == greedy
    assert said(student, ids, replace(hot, top_p=1e-6)) == greedy


def test_a_reply_can_be_stopped_and_keeps_what_was_said(student: Student) -> None:
    ids = prompt_ids(student, "List three animals.")
    whole = list(stream(student, ids, Sampling(max_new_tokens=10)))
    looks = iter([False] * 4 + [True])
    pieces = list(stream(student, ids, Sampling(max_new_tokens=10), lambda: next(looks)))
    assert pieces[:4] == whole[:4]
    assert (pieces[-1].finish_reason, pieces[-1].tokens) == ("interrupted", 4)


def test_the_context_ends_replies_and_refuses_prompts(student: Student) -> None:
    ids = prompt_ids(student, "List three animals.")
    tight = replace(student, context=len(ids) + 3)
    last = list(stream(tight, ids, Sampling(max_new_tokens=100)))[-1]
    assert (last.finish_reason, last.tokens) == ("length", 3)
    with pytest.raises(DataError, match="context is"):
        list(stream(replace(student, context=len(ids)), ids, Sampling()))
    small = replace(student, context=len(prompt_ids(student, "Hi")) + 2)
    [found] = answers(small, [("Hi", ""), ("Hi " * 50, "")], max_new_tokens=9, batch=2)
    reasons = {answer.index: (answer.finish_reason, answer.tokens) for answer in found}
    assert reasons == {0: ("length", 2), 1: ("prompt_too_long", 0)}


def test_a_prompt_that_nearly_fills_the_context_cuts_no_other_answer(student: Student) -> None:
    long = "Say " + "é, 日本 and 🦙. " * 5
    small = replace(student, context=len(prompt_ids(student, long)) + 2)
    [found] = answers(small, [*ASKED, (long, "")], max_new_tokens=40, batch=8)
    alone = answered(small, 1)
    assert {each.index: each for each in found if each.index < len(ASKED)} == alone
    assert any(answer.tokens > 2 for answer in alone.values())
    [last] = [each for each in found if each.index == len(ASKED)]
    assert (last.finish_reason, last.tokens) == ("length", 2)


def test_every_way_of_naming_a_model(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x"
    shutil.copytree(folder, run / "train" / "final")
    shutil.copytree(folder, run / "train" / "checkpoints" / "step-000002")
    (run / "recipe.yaml").touch()
    final = run / "train" / "final"
    for name in (run, run / "train", final):
        assert find_model(str(name)) == final
    assert run_of(final) == run
    assert run_of(folder) is None
    shutil.rmtree(final)
    with pytest.raises(DataError, match="not finished") as caught:
        find_model(str(run))
    assert caught.value.hint.endswith("step-000002")
    assert find_model(str(run / "train" / "checkpoints" / "step-000002")).name == "step-000002"


def test_an_adapter_brings_its_base(folder: Path, student: Student, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 by an old name
        warnings.simplefilter("ignore", FutureWarning)
        tuned = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    adapter = tmp_path / "adapter"
    tuned.save_pretrained(adapter)
    student.tokenizer.save_pretrained(adapter)
    ALPACA.save(adapter)

    loaded = load(adapter)
    ids = prompt_ids(loaded, "Hi")
    assert ids == prompt_ids(student, "Hi")
    with torch.no_grad():
        expected = tuned.eval()(input_ids=torch.tensor([ids])).logits
        assert torch.equal(loaded.model(input_ids=torch.tensor([ids])).logits, expected)
    [[answer]] = answers(loaded, [("Hi", "")], max_new_tokens=8, batch=1)
    assert answer.text == said(loaded, ids, Sampling(max_new_tokens=8))
    assert answer.text != said(student, ids, Sampling(max_new_tokens=8))

    named = json.loads((adapter / "adapter_config.json").read_text())
    gone = named | {"base_model_name_or_path": str(tmp_path / "gone")}
    (adapter / "adapter_config.json").write_text(json.dumps(gone))
    with pytest.raises(DataError, match=r"its base model: .*gone: no such folder"):
        load(adapter)


def test_a_models_own_defaults_and_missing_template(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "prompt_template.json").unlink()
    wishes = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 9.0}
    (copy / "generation_config.json").write_text(json.dumps(wishes | {"eos_token_id": [1, 7]}))
    student = load(copy)
    assert student.template == ALPACA
    assert "Alpaca template" in student.warnings[0]
    assert (student.sampling.temperature, student.sampling.top_p) == (0.6, 0.9)
    assert set(student.eos_ids) == {1, 7}
    assert student.model.generation_config.repetition_penalty in (None, 1.0)


def test_what_is_no_model_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    cut = copy("cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    without_weights = copy("without-weights")
    (without_weights / "model.safetensors").unlink()
    without_tokenizer = copy("without-tokenizer")
    for file in without_tokenizer.glob("tokenizer*"):
        file.unlink()
    other_shape = copy("other-shape")
    config = json.loads((other_shape / "config.json").read_text())
    (other_shape / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    own_code = copy("own-code")
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (own_code / "config.json").write_text(json.dumps(config))
    (own_code / "own.py").write_text("raise SystemExit('code of a model was run')\n")
    for broken in (cut, without_weights, without_tokenizer, other_shape, own_code):
        with pytest.raises(DataError, match=broken.name) as caught:
            load(broken)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "tynny", "no/such/model", "./nothing"):
        with pytest.raises(DataError):
            find_model(str(tmp_path / name))
    with pytest.raises(DataError) as caught:
        find_model(str(tmp_path / "cutt"))
    assert caught.value.hint == f"did you mean {cut}?"
