"""Formats of other programs: Ollama's Modelfile, GGUF, and the model card."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from alpaca_cli.core.errors import DataError, GateFailed, UsageError
from alpaca_cli.core.template import ALPACA, TOKENIZER, PromptTemplate
from alpaca_cli.data.model_card import Facts, Form, model_card
from alpaca_cli.data.modelfile import go_template, modelfile
from alpaca_cli.model.gguf_file import find_tools, verify_gguf
from alpaca_cli.model.logits import ASKED, prompts
from alpaca_cli.model.tokenizer import encode_prompts
from alpaca_cli.stages.export import Settings, export
from tests.tiny import save_tiny_model
from tests.tokenizers import CHATML, byte_level, llama_like
from tests.training import quiet

LLAMA_CPP = os.environ.get("LLAMA_CPP")
needs_llama_cpp = pytest.mark.skipif(
    not LLAMA_CPP or find_spec("gguf") is None or find_spec("sentencepiece") is None,
    reason="LLAMA_CPP names no llama.cpp, or gguf or sentencepiece is not installed",
)


def rendered(template: str, system: str, prompt: str) -> str:
    """What Go makes of the few constructs of our templates, done by hand."""
    before, _, rest = template.partition("{{ if .System }}")
    inner, _, after = rest.partition("{{ end }}")
    text = before + (inner if system else "") + after
    assert text.endswith("{{ .Response }}")
    for name, value in (
        (".System", system),
        (".Prompt", prompt),
        (".Response", ""),
        ('"{{"', "{{"),
    ):
        text = text.replace(f"{{{{ {name} }}}}", value)
    return text


def test_ollama_renders_the_prompt_of_training() -> None:
    template = go_template(ALPACA)
    assert rendered(template, "", "Name a color.") == ALPACA.prompt("Name a color.")
    # With a system prompt as `alpaca chat --system` places it.
    asked = ALPACA.prompt("Be brief.\n\nName a color.")
    assert rendered(template, "Be brief.", "Name a color.") == asked
    odd = PromptTemplate(
        "odd", with_input="{instruction}{input}", without_input="{{x {instruction}:"
    )
    assert rendered(go_template(odd), "", "Q") == odd.prompt("Q")
    quotes = replace(odd, without_input='"""{instruction}')
    with pytest.raises(UsageError, match="holds"):
        go_template(quotes)


def test_a_modelfile_names_what_is_known() -> None:
    text = modelfile(
        "./m.gguf", ALPACA, stops=["</s>", '<|"end"|>'], context=131072, sampling={"top_k": 3}
    )
    assert text.startswith(f'FROM ./m.gguf\nTEMPLATE """{go_template(ALPACA)}"""\n')
    assert text.endswith(
        'PARAMETER stop "</s>"\nPARAMETER stop "<|\\"end\\"|>"\nPARAMETER num_ctx 8192\n'
        "PARAMETER top_k 3\n"
    )
    for none in (None, TOKENIZER):
        assert 'TEMPLATE "' not in modelfile(".", none, stops=[], context=None, sampling={})


def front(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


FORM = Form(name="me/alpaca", kind="model", dtype="bfloat16", template=ALPACA)


def test_a_card_of_what_nothing_is_known_of_says_so() -> None:
    card = model_card(Facts(), FORM, None)
    assert front(card).keys() == {"library_name", "pipeline_tag", "tags"}
    for said in (
        "a model that is not known",
        "What it was trained on is unknown",
        "How it was trained is unknown",
        "No figures of this model are known",
        "Languages: unknown",
        "No licence is stated",
    ):
        assert said in card
    assert ALPACA.without_input in card
    assert ALPACA.with_input in card


def test_a_card_says_what_is_known_and_no_more() -> None:
    facts = Facts(
        base="meta/base", base_id="meta/base", data=["One."], datasets=["a/b"],
        languages=["en", "de"], recipe={"epochs": "3"},
        figures=[["exact match", "9 | x\nquestions", "50%", "20% to 80%"]],
        terms=["The terms of t may apply."],
    )  # fmt: skip
    card = model_card(facts, FORM, "apache-2.0")
    found = front(card)
    assert (found["base_model"], found["datasets"]) == ("meta/base", ["a/b"])
    assert (found["license"], found["language"]) == ("apache-2.0", ["en", "de"])
    assert "| exact match | 9 \\| x questions | 50% | 20% to 80% |" in card
    assert (
        "Licence: apache-2.0. The terms of its base model, meta/base, apply. The terms of t" in card
    )
    adapter = model_card(facts, replace(FORM, kind="adapter"), None)
    assert "AutoPeftModelForCausalLM" in adapter
    assert front(adapter)["library_name"] == "peft"
    diff = model_card(facts, replace(FORM, kind="weight diff"), None)
    assert "alpaca export me/alpaca recovered --recover meta/base" in diff
    assert "from transformers" not in diff
    spaced = replace(FORM, name="my model")
    assert "alpaca chat 'my model'" in model_card(facts, spaced, None)
    assert "export 'my model' rec" in model_card(facts, replace(spaced, kind="weight diff"), None)


@pytest.mark.parametrize("own", [False, True])
def test_the_snippet_of_a_card_runs_and_asks_as_in_training(tmp_path: Path, own: bool) -> None:
    """Also where the tokenizer brings a chat template that is not the model's."""
    model = save_tiny_model(tmp_path / "model")
    if own:
        (model / "chat_template.jinja").write_text(CHATML)
    out = tmp_path / "out"
    report = export(
        str(model), out, Settings(), runs=tmp_path, progress=quiet(), confirm=lambda _: False
    )
    assert ["brings a chat template of its own" in note for note in report.notes] == [True] * own
    card = (out / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"out"', repr(str(out)))
    space: dict[str, Any] = {}
    exec(code.replace("max_new_tokens=256", "max_new_tokens=3"), space)
    [ids] = encode_prompts(space["tokenizer"], ALPACA, ASKED[:1])
    assert space["inputs"]["input_ids"][0].tolist() == ids


def test_missing_tools_are_named(tmp_path: Path) -> None:
    (tmp_path / "convert_hf_to_gguf.py").write_text("")
    tools = find_tools(str(tmp_path), "f16")
    assert (tools.convert[1], tools.quantize) == (str(tmp_path / "convert_hf_to_gguf.py"), None)
    with pytest.raises(UsageError, match="--gguf Q4_K_M needs llama-quantize") as caught:
        find_tools(str(tmp_path), "Q4_K_M")
    assert "cmake --build build --target llama-quantize" in caught.value.hint
    with pytest.raises(UsageError, match=r"no convert_hf_to_gguf\.py") as caught:
        find_tools(str(tmp_path.parent), "f16")
    assert "git clone" in caught.value.hint


def save_llama(folder: Path, tokenizer: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ALPACA.save(folder)
    return folder


def save_sentencepiece(folder: Path) -> Path:
    """A LLaMA with a tokenizer of SentencePiece, and the file that llama.cpp reads it from."""
    from transformers import LlamaTokenizer

    sentencepiece: Any = import_module("sentencepiece")  # it comes with what llama.cpp needs

    folder.mkdir()
    text = folder / "text"
    text.write_text("List three animals that live in the sea. The whale and the shark.\n" * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=320, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2,
    )  # fmt: skip
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_bos_token = True
    tokenizer.update_post_processor()
    return save_llama(folder, tokenizer)


def gguf(model: Path, target: Path, kind: str) -> dict[str, Any]:
    report = export(
        str(model), target, Settings(gguf=kind, ollama=True), runs=target, progress=quiet(),
        confirm=lambda _: False,
    )  # fmt: skip
    assert report.gguf is not None
    return dict(report.gguf)


@needs_llama_cpp
@pytest.mark.parametrize(("kind", "apart"), [("auto", 0), ("f16", 0), ("q8_0", 0.02)])
def test_a_gguf_is_the_model(tmp_path: Path, kind: str, apart: float) -> None:
    model = save_sentencepiece(tmp_path / "model")
    found = gguf(model, tmp_path / "out", kind)
    assert (found["tensors"], found["compared"], found["verified"]) == (21, 21, True)
    assert 0 <= found["largest"] <= apart
    assert (tmp_path / "out" / "Modelfile").read_text().startswith(f"FROM ./{found['file']}\n")
    # One number that is another one is found.
    from safetensors.torch import load_file, save_file

    other = tmp_path / "out" / "model.safetensors"
    weights = load_file(other)
    weights["model.layers.1.self_attn.q_proj.weight"][3, 5] += 100
    save_file(weights, other, metadata={"format": "pt"})
    with pytest.raises(GateFailed, match=r"blk.1.attn_q.weight differs"):
        verify_gguf(tmp_path / "out" / found["file"], tmp_path / "out", prompts(model, ALPACA))


@needs_llama_cpp
def test_a_gguf_that_would_split_words_otherwise_is_refused(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "model", llama_like())  # without tokenizer.model
    with pytest.raises(GateFailed, match="lost its scores"):
        gguf(model, tmp_path / "out", "auto")
    assert not (tmp_path / "out").exists()


@needs_llama_cpp
def test_a_tokenizer_that_llama_cpp_does_not_know_is_named(tmp_path: Path) -> None:
    for name, tokenizer in (("scratch", None), ("bytes", byte_level())):
        folder = tmp_path / name
        model = save_tiny_model(folder) if tokenizer is None else save_llama(folder, tokenizer)
        with pytest.raises(DataError, match="does not know this model's tokenizer"):
            gguf(model, tmp_path / "out", "auto")
