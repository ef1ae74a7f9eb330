"""The data as ids, made once: what the store is a function of, and what it survives."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_train import Scratch, ScratchModel, Train
from alpaca_cli.data.formats import read_examples
from alpaca_cli.model.tokens import Tokens, prepare_tokens, texts
from tests.processes import environment
from tests.tokenizers import CHATML, byte_level, llama_like, save_folder

EXAMPLES = [
    Example(f"Repeat the word {n} times.", word, " ".join([word] * n))
    for n in range(1, 9)
    for word in ("dog", "red bird", "sea", "one two three")
]
SCRATCH = Train(model=ScratchModel(config=Scratch(vocab_size=400)), max_length=128)
ROOT = Path(__file__).parents[2]


class Reader:
    """Hands out examples, and counts how often."""

    def __init__(self, examples: Sequence[Example] = EXAMPLES) -> None:
        self.examples, self.calls = examples, 0

    def __call__(self) -> Sequence[Example]:
        self.calls += 1
        return self.examples


def flat(tokens: Tokens) -> list[tuple[list[int], int, int]]:
    return [(list(map(int, row.ids)), row.prompt, row.number) for row in tokens.encoded.rows]


def folders(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


def test_the_second_time_nothing_is_read_and_nothing_made(tmp_path: Path) -> None:
    reader = Reader()
    first = prepare_tokens(SCRATCH, "d", reader, tmp_path)
    second = prepare_tokens(SCRATCH, "d", reader, tmp_path)
    assert reader.calls == 1
    assert (first.cached, second.cached) == (False, True)
    assert flat(first) == flat(second)
    assert first.template == second.template
    assert first.tokenizer.backend_tokenizer.to_str() == second.tokenizer.backend_tokenizer.to_str()
    assert len(folders(tmp_path)) == 1
    for tokens in (first, second):
        assert isinstance(tokens.encoded.rows.ids, np.memmap)


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    stored = prepare_tokens(SCRATCH, "d", Reader(), tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    found = prepare_tokens(SCRATCH, "", Reader(), None)
    assert flat(found) == flat(stored)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_needs_the_digest_of_its_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digest"):
        prepare_tokens(SCRATCH, "", Reader(), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 64},
        {"overlong": "truncate_response"},
        {"model": ScratchModel(config=Scratch(vocab_size=500))},
        {"template": "{file}"},
    ],
)
def test_what_changes_the_rows_changes_their_place(tmp_path: Path, change: dict[str, Any]) -> None:
    template = tmp_path / "template.json"
    own = {"name": "own", "with_input": "{instruction} {input}:", "without_input": "{instruction}:"}
    template.write_text(json.dumps(own))
    if "template" in change:
        change = {"template": str(template)}
    store, reader = tmp_path / "store", Reader()
    prepare_tokens(SCRATCH, "d", reader, store)
    prepare_tokens(SCRATCH.model_copy(update=change), "d", reader, store)
    prepare_tokens(SCRATCH, "other data", reader, store)
    assert reader.calls == 3
    assert len(folders(store)) == 3


def test_what_does_not_change_the_rows_does_not_change_their_place(tmp_path: Path) -> None:
    reader = Reader()
    prepare_tokens(SCRATCH, "d", reader, tmp_path)
    other = SCRATCH.model_copy(
        update={
            "learning_rate": 1.0,
            "global_batch": 7,
            "model": ScratchModel(config=Scratch(vocab_size=400, hidden_size=64)),
        }
    )
    assert prepare_tokens(other, "d", reader, tmp_path).cached


def test_a_changed_tokenizer_or_eos_changes_the_place(tmp_path: Path) -> None:
    store, reader = tmp_path / "store", Reader()
    model = save_folder(tmp_path / "model", byte_level())
    settings = Train(model=str(model), max_length=512)
    prepare_tokens(settings, "d", reader, store)
    assert prepare_tokens(settings, "d", reader, store).cached
    # The same files elsewhere are the same model.
    moved = settings.model_copy(update={"model": str(shutil.copytree(model, tmp_path / "copy"))})
    assert prepare_tokens(moved, "d", reader, store).cached
    for change in (
        lambda: save_folder(model, byte_level(["other words entirely"])),
        lambda: save_folder(model, byte_level(["other words entirely"]), eos_token_id=[0, 2]),
        lambda: (model / "generation_config.json").write_text('{"eos_token_id": 1}'),
    ):
        change()
        assert not prepare_tokens(settings, "d", reader, store).cached


@pytest.mark.parametrize(
    "name", ["ids.npy", "offsets.npy", "numbers.npy", "tokenizer/tokenizer.json"]
)
def test_a_torn_store_is_made_anew(tmp_path: Path, name: str) -> None:
    reader = Reader()
    whole = flat(prepare_tokens(SCRATCH, "d", reader, tmp_path))
    [folder] = tmp_path.iterdir()
    path = folder / name
    for damage in (
        lambda: path.write_bytes(path.read_bytes()[:-9]),
        lambda: path.write_bytes(path.read_bytes() + b"\n\n"),
        path.unlink,
    ):
        damage()
        mended = prepare_tokens(SCRATCH, "d", reader, tmp_path)
        assert not mended.cached
        assert flat(mended) == whole
        assert prepare_tokens(SCRATCH, "d", reader, tmp_path).cached
    assert reader.calls == 4
    assert folders(tmp_path) == [folder.name]


@pytest.mark.parametrize("about", ["", "{", "[]", "{}", '{"files": {}}'])
def test_a_store_that_does_not_say_what_it_is_is_made_anew(tmp_path: Path, about: str) -> None:
    prepare_tokens(SCRATCH, "d", Reader(), tmp_path)
    [folder] = tmp_path.iterdir()
    (folder / "about.json").write_text(about)
    assert not prepare_tokens(SCRATCH, "d", Reader(), tmp_path).cached
    assert prepare_tokens(SCRATCH, "d", Reader(), tmp_path).cached


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        prepare_tokens(SCRATCH, "d", Reader(), tmp_path / "file" / "tokens")


def test_real_data_is_the_same_from_the_store(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "alpaca_en_demo.json"
    settings = SCRATCH.model_copy(update={"overlong": "truncate_response"})
    made = prepare_tokens(settings, "", lambda: read_examples([path]), None)
    prepare_tokens(settings, "d", lambda: read_examples([path]), tmp_path)
    stored = prepare_tokens(settings, "d", Reader([]), tmp_path)
    assert flat(stored) == flat(made)
    assert stored.encoded.truncated == made.encoded.truncated > 0
    assert stored.encoded.dropped == made.encoded.dropped
    assert {ids[-1] for ids, _, _ in flat(stored)} == {made.tokenizer.eos_token_id}


class TestPretrained:
    """Tokenizers that come with a model."""

    def prepare(self, folder: Path, store: Path | None = None, **more: Any) -> Tokens:
        settings = Train(model=str(folder), max_length=512, **more)
        return prepare_tokens(settings, "d", Reader(), store)

    def test_notes_and_special_tokens_come_back_from_the_store(self, tmp_path: Path) -> None:
        tokenizer = byte_level()
        tokenizer.chat_template = CHATML
        model = save_folder(tmp_path / "model", tokenizer)
        made = self.prepare(model, tmp_path / "store", template="tokenizer")
        stored = self.prepare(model, tmp_path / "store", template="tokenizer")
        assert stored.cached
        assert made.notes == stored.notes
        assert any("as in the model's chat template" in note for note in stored.notes)
        for tokens in (made, stored):
            assert tokens.tokenizer.eos_token == "<|im_end|>"
            assert tokens.tokenizer.pad_token == "<|endoftext|>"
            assert tokens.encoded.rows[0].ids[-1] == tokens.tokenizer.eos_token_id

    def test_an_early_llama_with_empty_special_tokens(self, tmp_path: Path) -> None:
        folder = save_folder(
            tmp_path / "model", llama_like(), bos_token_id=1, eos_token_id=2, pad_token_id=-1
        )
        path = folder / "tokenizer_config.json"
        named = json.loads(path.read_text())
        path.write_text(json.dumps(named | {"eos_token": "", "bos_token": "", "unk_token": ""}))
        tokens = self.prepare(folder, tmp_path / "store")
        assert tokens.tokenizer.eos_token_id == 2
        assert "the tokenizer names no EOS: using the model's, '</s>'" in tokens.notes
        assert tokens.tokenizer.bos_token_id == 1
        assert tokens.encoded.rows[0].ids[0] == 1
        assert tokens.encoded.rows[0].ids[-1] == 2

    def test_a_tokenizer_that_ends_prompts_with_eos(self, tmp_path: Path) -> None:
        from tokenizers import processors

        tokenizer = llama_like()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", None, [("<s>", 1), ("</s>", 2)]
        )
        folder = save_folder(tmp_path / "model", tokenizer, bos_token_id=1, eos_token_id=2)
        for ids, _, _ in flat(self.prepare(folder, tmp_path / "store")):
            assert (ids[0], ids[-1]) == (1, 2)
            assert ids.count(1) == ids.count(2) == 1

    def test_a_blank_output_is_said(self, tmp_path: Path) -> None:
        settings = Train(model=str(save_folder(tmp_path / "model", byte_level())))
        reader = Reader([*EXAMPLES, Example("Say nothing.", "", "")])
        notes = prepare_tokens(settings, "d", reader, None).notes
        assert any(note.startswith("1 of 33 examples have a blank output") for note in notes)

    def test_an_adapter_is_refused(self, tmp_path: Path) -> None:
        folder = save_folder(tmp_path / "model", byte_level())
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(DataError, match="holds an adapter"):
            self.prepare(folder)

    def test_a_missing_chat_template_is_refused(self, tmp_path: Path) -> None:
        folder = save_folder(tmp_path / "model", byte_level())
        with pytest.raises(UsageError, match="has no chat template"):
            self.prepare(folder, template="tokenizer")

    def test_tokens_beyond_the_embedding_are_refused(self, tmp_path: Path) -> None:
        """Ids with gaps: more than the tokenizer counts, and than the embedding would grow to."""
        tokenizer = byte_level()
        folder = save_folder(tmp_path / "model", tokenizer, vocab_size=300)
        path = folder / "tokenizer.json"
        stored = json.loads(path.read_text())
        stored["model"]["vocab"]["d"] = 9000
        path.write_text(json.dumps(stored))
        with pytest.raises(DataError, match="makes token 9,000"):
            self.prepare(folder)

    def test_code_that_comes_with_a_tokenizer_runs_only_when_allowed(self, tmp_path: Path) -> None:
        said = children("code", tmp_path, HF_HOME=str(tmp_path / "hub"))
        assert said == [
            "refused: set train.trust_remote_code=true when you have read that code",
            "made: OwnTokenizer 32",
            "stored: OwnTokenizer 32",
        ]


def test_several_processes_may_make_the_same_store_at_once(tmp_path: Path) -> None:
    found = {tuple(json.loads(line)) for line in children("together", tmp_path)}
    expected = flat(prepare_tokens(SCRATCH, "d", Reader(), None))
    [(status, folder_count, rows)] = found
    assert (status, folder_count) == (0, 1)
    assert json.loads(rows) == [list(row) for row in expected]


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """Killed by the kernel at file sizes from nothing to nearly all, and by `kill -9` at once."""
    ends = [json.loads(line) for line in children("killed", tmp_path)]
    assert {end["signal"] for end in ends} == {signal.SIGXFSZ, signal.SIGKILL}
    assert len(ends) == 6
    for end in ends:
        assert end["whole"] == []
        assert len(end["left"]) == 1, "it died before or after writing, which shows nothing"
    found = prepare_tokens(SCRATCH, "d", Reader(), tmp_path)
    assert not found.cached
    assert flat(found) == flat(prepare_tokens(SCRATCH, "", Reader(), None))
    assert len(folders(tmp_path)) == 1, "what the killed ones left is still there"


def test_texts_are_all_that_is_said() -> None:
    assert texts([Example("a", "", "b"), Example("c", "d", "")]) == ["a", "b", "c", "d"]


# What follows runs in processes of its own, which fork, die, and run code that came with a model.


def children(what: str, folder: Path, **extra: str) -> list[str]:
    """Lines that `python -m tests.model.test_tokens WHAT FOLDER` writes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.test_tokens", what, str(folder)],
        cwd=ROOT,
        env=environment(TOKENIZERS_PARALLELISM="false", **extra),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def together(folder: Path) -> None:
    """Four forks that begin when all are there; each says how it ended, and its rows."""
    prepare_tokens(SCRATCH, "d", Reader(), folder / "warm")  # imports, once for all
    store, pids, (begin, go) = folder / "store", [], os.pipe()
    for _ in range(4):
        if pid := os.fork():
            pids.append(pid)
            continue
        os.close(go)
        os.read(begin, 1)  # ends when the parent closes its side
        rows = flat(prepare_tokens(SCRATCH, "d", Reader(), store))
        (folder / f"{os.getpid()}.json").write_text(json.dumps(rows))
        os._exit(0)
    os.close(begin)
    os.close(go)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    for pid, end in zip(pids, ends, strict=True):
        said = (folder / f"{pid}.json").read_text()
        print(json.dumps([end, len(list(store.iterdir())), said]))  # noqa: T201


def killed(folder: Path) -> None:
    """Forks that the kernel kills when a file grows beyond a limit, or that kill themselves."""
    prepare_tokens(SCRATCH, "d", Reader(), folder)
    [path] = folder.iterdir()
    sizes = sorted(each.stat().st_size for each in path.rglob("*") if each.is_file())
    shutil.rmtree(path)
    for limit in (0, 200, sizes[-2] - 1, sizes[-1] // 2, sizes[-1] - 1, None):
        if not (pid := os.fork()):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if limit is None:
                die_after_the_rows()
            else:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            prepare_tokens(SCRATCH, "d", Reader(), folder)
            os._exit(0)
        end = -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        names = [each.name for each in folder.iterdir()]
        visible = [name for name in names if not name.startswith(".")]
        print(json.dumps({"signal": end, "whole": visible, "left": names}))  # noqa: T201


def die_after_the_rows() -> None:
    """`kill -9` when the first file of the tokenizer is opened for writing."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and "tokenizer_config.json" in str(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def code(folder: Path) -> None:
    """A tokenizer whose class comes with it."""
    model = save_folder(folder / "model", byte_level())
    (model / "tokenization_own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    path = model / "tokenizer_config.json"
    named = json.loads(path.read_text()) | {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    }
    path.write_text(json.dumps(named))
    settings = Train(model=str(model), max_length=512)
    try:
        prepare_tokens(settings, "d", Reader(), folder / "store")
    except DataError as error:
        print(f"refused: {error.hint}")  # noqa: T201
    settings = settings.model_copy(update={"trust_remote_code": True})
    for label in ("made", "stored"):
        found = prepare_tokens(settings, "d", Reader(), folder / "store")
        assert found.cached == (label == "stored")
        name = type(found.tokenizer).__name__
        print(f"{label}: {name} {len(found.encoded.rows)}")  # noqa: T201


if __name__ == "__main__":
    {"together": together, "killed": killed, "code": code}[sys.argv[1]](Path(sys.argv[2]))
