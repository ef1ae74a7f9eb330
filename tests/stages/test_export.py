"""`alpaca export` on real tiny LLaMAs: what is written is the model, whole, or not there at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file

from alpaca_cli.core.errors import AlpacaError, DataError, GateFailed, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings_train import Lora, Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.loading import load_student
from alpaca_cli.model.saving import save_trainee
from alpaca_cli.model.student import make_trainee
from alpaca_cli.model.tokenizer import load_tokenizer
from alpaca_cli.stages.export import Report, Settings, export
from tests.processes import run
from tests.tiny import save_tiny_model
from tests.training import quiet

PLAIN = Settings(max_shard=100_000)
IDS = torch.arange(5, 25)[None]


def exported(model: Path, target: Path, settings: Settings = PLAIN) -> Report:
    def never(question: str) -> bool:
        raise AssertionError(question)

    return export(str(model), target, settings, runs=Path("none"), progress=quiet(), confirm=never)


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_student(folder, "x").model(IDS, use_cache=False).logits
    return found


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in folder.glob("model*.safetensors") for k, v in load_file(path).items()}


def equal(one: Path, other: Path) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `runs/small`, whose recipe and reports say how its model was made."""
    folder = tmp_path_factory.mktemp("export")
    run_folder = folder / "runs" / "small"
    save_tiny_model(run_folder / "train" / "final")
    (run_folder / "recipe.yaml").write_text("name: small\nseed: 7\ntrain: {epochs: 2.0}\n")
    kept = run_folder / "dedup" / "kept.jsonl"
    kept.parent.mkdir()
    kept.write_text('{"instruction": "a", "output": "b"}\n')
    done = {"settings": {}, "inputs": {"data": hashlib.sha256(kept.read_bytes()).hexdigest()}}
    (run_folder / "train" / "done.json").write_text(json.dumps(done))
    for name, model in (("eval", "train/final"), ("eval-other", "train/checkpoints/step-000001")):
        (run_folder / name).mkdir()
        report = {"model": model, "data": "procedural", "questions": 840, "exact_match": 0.75}
        report |= {"exact_match_interval": [0.7196, 0.7781], "rouge_l": 0.8121}
        if name != "eval":
            report["exact_match"] = 0.111
        (run_folder / name / "report.json").write_text(json.dumps(report))
        trained = hashlib.sha256((run_folder / "train" / "done.json").read_bytes()).hexdigest()
        started = {"settings": {}, "inputs": {"train/done.json": trained}}
        (run_folder / name / "started.json").write_text(json.dumps(started))
    return folder


@pytest.fixture(scope="module")
def model(here: Path) -> Path:
    return here / "runs" / "small" / "train" / "final"


def make_adapter(base: Path, folder: Path, new_tokens: int = 0, **lora: Any) -> Path:
    """An adapter of a training, its numbers drawn at random, saved as training saves it."""
    settings = Train(model=str(base), method="lora", lora=Lora(r=4, dropout=0, **lora))
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens([f"<new {number}>" for number in range(new_tokens)])
    trainee = make_trainee(settings, tokenizer, ALPACA, 1)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trainee.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    save_trainee(trainee, folder)
    return folder


def test_the_newest_run_is_exported_with_all_that_is_known_of_it(here: Path, model: Path) -> None:
    done = run("export", "mine", "--max-shard-size", "100KB", "--json", "--ollama", cwd=here)
    report = json.loads(done.stdout)
    target = here / "mine"
    assert equal(target, model)
    assert report["verified"] == "logits equal bit for bit"
    assert (report["kind"], report["dtype"], report["logits"]["largest"]) == ("copy", "float32", 0)
    assert report["files"] == {path.name: path.stat().st_size for path in target.iterdir()}
    assert len(list(target.glob("model-*.safetensors"))) > 2
    # `sha256sum -c` agrees, and every file is in the list.
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=target, capture_output=True, text=True
    )
    assert checked.returncode == 0
    assert len(checked.stdout.splitlines()) == len(report["files"]) - 1
    # The tokenizer brings a chat template now; the model is asked as before.
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == ALPACA.prompt("Hi")
    assert torch.equal(logits(target), logits(model))
    card = (target / "README.md").read_text()
    assert "75.0%" in card
    assert "72.0% to 77.8%" in card
    assert "11.1%" not in card  # another model's figure
    assert "built into alpaca" in card
    assert "| epochs | 2 |" in card
    assert "No licence is stated" in card
    assert "Languages: unknown" in card
    front = card.split("---")[1]
    assert "license" not in front
    assert "pipeline_tag: text-generation" in front
    assert str(here) not in card
    modelfile = (target / "Modelfile").read_text()
    assert modelfile.startswith("FROM .\n")
    assert 'PARAMETER stop "</s>"\nPARAMETER num_ctx 512\nPARAMETER temperature 0\n' in modelfile
    # A second time: refused until --fresh, which moves the folder aside.
    again = run("export", "mine", cwd=here, code=2)
    assert "not empty" in again.stderr


def test_fresh_moves_the_old_folder_aside(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("data")
    with pytest.raises(UsageError, match="not empty"):
        exported(model, target)
    exported(model, target, replace(PLAIN, fresh=True))
    assert (tmp_path / "target.old-1" / "precious").read_text() == "data"
    assert equal(target, model)
    assert not (target / "precious").exists()


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_says_what_it_cost(
    model: Path, tmp_path: Path, dtype: str, kind: torch.dtype
) -> None:
    report = exported(model, tmp_path / "half", replace(PLAIN, dtype=dtype))
    source, found = tensors(model), tensors(tmp_path / "half")
    assert {each.dtype for each in found.values()} == {kind}
    changes = {n: float((source[n] - found[n].float()).abs().max()) for n in source}
    assert report.largest_change == pytest.approx(max(changes.values()), rel=1e-6)
    assert report.changed_in == max(changes, key=lambda name: changes[name])
    assert report.logits is not None
    assert 0 < report.logits["relative"] < report.logits["bound"]
    assert report.logits["argmax"] > 0.9
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == str(kind).removeprefix("torch.")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert loaded.dtype == kind
    # And back: every half is a float.
    report = exported(tmp_path / "half", tmp_path / "whole", replace(PLAIN, dtype="fp32"))
    assert report.verified == "logits equal bit for bit"


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    large = save_tiny_model(tmp_path / "large")
    weights = load_file(large / "model.safetensors")
    weights["model.norm.weight"][3] = 1e5
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GateFailed, match=r"model.norm.weight: 1 numbers are too large"):
        exported(large, tmp_path / "half", replace(PLAIN, dtype="fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_an_adapter_is_merged_into_its_base(here: Path, model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(model, tmp_path / "adapter")
    done = run(
        "export", adapter, tmp_path / "merged", "--merge", "--license", "apache-2.0", "--json",
        cwd=here,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["kind"] == "merge"
    assert 0 < report["logits"]["relative"] < 1e-4
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    apart = (logits(tmp_path / "merged") - logits(adapter)).norm() / logits(adapter).norm()
    assert apart < 1e-4
    assert (logits(adapter) - logits(model)).norm() / logits(model).norm() > 1e-2
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "license: apache-2.0" in card.split("---")[1]
    assert str(model.parent) not in card


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_new_tokens_and_their_rows_are_merged(tmp_path: Path, tied: bool, kind: str) -> None:
    base = save_tiny_model(tmp_path / "base", tied=tied)
    adapter = make_adapter(base, tmp_path / "adapter", 5, dora=kind == "dora")
    report = exported(adapter, tmp_path / "merged", replace(PLAIN, merge=True))
    assert report.logits is not None
    assert report.logits["relative"] < 1e-4
    merged = load_student(tmp_path / "merged", "merged")
    new = torch.tensor([[7, 321, 324, 9]])
    with torch.no_grad():
        other = load_student(adapter, "adapter").model(new, use_cache=False).logits
        mine = merged.model(new, use_cache=False).logits
    assert (mine - other).norm() / other.norm() < 1e-4
    assert len(merged.tokenizer) == 325


def test_an_adapter_alone_stays_an_adapter(model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(model, tmp_path / "adapter")
    report = exported(adapter, tmp_path / "copy")
    assert (report.kind, report.verified) == ("adapter", "logits equal bit for bit")
    name = "adapter_model.safetensors"
    ours, theirs = load_file(tmp_path / "copy" / name), load_file(adapter / name)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert "base_model_name_or_path in adapter_config.json" in report.notes[0]
    assert str(model) not in (tmp_path / "copy" / "README.md").read_text()
    for settings, said in (
        (replace(PLAIN, diff=str(model)), "--diff needs a whole model"),
        (replace(PLAIN, ollama=True), "--ollama needs a whole model"),
    ):
        with pytest.raises(UsageError, match=said):
            exported(adapter, tmp_path / "other", settings)
    with pytest.raises(UsageError, match="nothing to merge"):
        exported(model, tmp_path / "other", replace(PLAIN, merge=True))


def test_a_difference_and_the_way_back(here: Path, model: Path, tmp_path: Path) -> None:
    """With new tokens in the tuned model, whose embedding has rows that the base lacks."""
    adapter = make_adapter(model, tmp_path / "adapter", 3)
    exported(adapter, tmp_path / "tuned", replace(PLAIN, merge=True))
    done = run(
        "export", tmp_path / "tuned", tmp_path / "diff", "--diff", model, "--max-shard-size",
        "100KB", cwd=here,
    )  # fmt: skip
    assert "all 21 tensors come back" in " ".join(done.stdout.split())
    assert "rows that the base lacks" in " ".join(done.stdout.split())
    manifest = json.loads((tmp_path / "diff" / "weight_diff.json").read_text())
    entry = manifest["tensors"]["model.embed_tokens.weight"]
    assert (entry["shape"], entry["base"]["rows"]) == ([384, 64], 320)
    assert manifest["base"] == "final"  # not this machine's path
    assert not list((tmp_path / "diff").glob("model*.safetensors"))  # nothing loads it as a model
    run("export", tmp_path / "diff", tmp_path / "back", "--recover", model, cwd=here)
    assert equal(tmp_path / "back", tmp_path / "tuned")
    assert torch.equal(logits(tmp_path / "back"), logits(tmp_path / "tuned"))
    for name in ("config.json", "tokenizer.json", "prompt_template.json", "chat_template.jinja"):
        ours, theirs = (tmp_path / each / name for each in ("back", "tuned"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    # Another base, and a damaged file that is no tensor.
    other = save_tiny_model(tmp_path / "other", tied=False)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    recover = replace(PLAIN, recover=str(other))
    with pytest.raises(DataError, match=r"not the base.*: model.norm.weight has other values$"):
        exported(tmp_path / "diff", tmp_path / "no", recover)
    config = tmp_path / "diff" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(DataError, match=r"config.json: missing or damaged"):
        exported(tmp_path / "diff", tmp_path / "no", replace(PLAIN, recover=str(model)))
    assert not (tmp_path / "no").exists()


def test_equal_tensors_are_not_in_a_difference(model: Path, tmp_path: Path) -> None:
    report = exported(model, tmp_path / "diff", replace(PLAIN, diff=str(model)))
    assert report.unchanged == report.tensors == 21
    assert not list((tmp_path / "diff").glob("*.safetensors"))
    exported(tmp_path / "diff", tmp_path / "back", replace(PLAIN, recover=str(model)))
    assert equal(tmp_path / "back", model)


def test_a_damaged_shard_and_pickled_weights(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    exported(model, copy)
    shard = sorted(copy.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{shard.name}: not a whole safetensors file"):
        exported(copy, tmp_path / "again")
    pickled = tmp_path / "pickled"
    shutil.copytree(model, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(tensors(model), pickled / "pytorch_model.bin")
    report = exported(pickled, tmp_path / "safe")
    assert equal(tmp_path / "safe", model)
    assert report.verified == "logits equal bit for bit"
    with pytest.raises(UsageError, match="pickled weights"):
        exported(pickled, tmp_path / "diff", replace(PLAIN, diff=str(model)))


def test_a_result_that_is_not_the_source_is_taken_away(model: Path, tmp_path: Path) -> None:
    """A tokenizer whose files contradict each other is read otherwise from its copy."""
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GateFailed, match="not finite"):
        exported(broken, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_a_dry_run_writes_nothing_and_knows_the_sizes(model: Path, tmp_path: Path) -> None:
    settings = replace(PLAIN, dtype="bf16")
    planned = exported(model, tmp_path / "out", replace(settings, dry_run=True))
    assert list(tmp_path.iterdir()) == []
    report = exported(model, tmp_path / "out", settings)
    weights = {name: size for name, size in report.files.items() if name.endswith(".safetensors")}
    assert weights
    assert weights.items() <= planned.files.items()
    assert planned.dry_run
    told = " ".join([*planned.files, *planned.notes])
    assert [name for name in report.files if name not in told] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"diff": "a", "recover": "b"}, "exclude each other"),
        ({"diff": "MODEL", "dtype": "bf16"}, "--dtype does not go with --diff"),
        ({"public": True}, "--public is for --push"),
        ({"card": False, "license": "mit"}, "--no-card"),
        ({"gguf": "f16", "llama_cpp": "nowhere"}, "nowhere: no such folder"),
        ({"recover": "MODEL"}, "no weight difference here"),
        ({"diff": "no/such/../model"}, "no such folder"),
    ],
)
def test_what_does_not_go_together_is_refused_first(
    model: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {
        key: str(model) if value == "MODEL" else value for key, value in changes.items()
    }
    with pytest.raises(AlpacaError, match=said):
        exported(model, tmp_path / "out", replace(PLAIN, **dict[str, Any](given)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="where the model is read from"):
        exported(model, model / "inside")


def test_a_link_stays_and_the_folder_we_are_in_is_no_target(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    exported(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert equal(tmp_path / "disk", model)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (".", ".."):
        with pytest.raises(UsageError, match="where you are"):
            exported(model, Path(target))


def test_progress_is_for_people(model: Path, tmp_path: Path) -> None:
    said = StringIO()
    export(
        str(model), tmp_path / "out", PLAIN, runs=tmp_path,
        progress=Progress(Console(file=said)), confirm=lambda _: True,
    )  # fmt: skip
    assert "comparing logits" in said.getvalue()
