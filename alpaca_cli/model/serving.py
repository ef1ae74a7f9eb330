"""A model folder as other people's servers want it: with our prompt, our defaults, and one name.

What they would do otherwise: a model of the Alpaca template has no chat template and is asked with
a prompt it never saw; penalties and lengths that its authors left in generation_config.json act
unseen; it is called by its path. The folder made here renders the training prompt (as
`alpaca_cli.model.chat_template` does), samples as `alpaca chat` does, and lies in a hub cache of
its own, so that a server finds it by its name, and finds no other. Weights are linked, not
copied; an adapter is merged into its base. Which server that is, is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig

from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model.chat_template import FILE_NAME as CHAT_TEMPLATE
from alpaca_cli.model.chat_template import chat_template
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.export import load_tokenizer, loading, merge
from alpaca_cli.model.export_files import GENERATION, small_files
from alpaca_cli.model.loading import default_sampling, eos_ids_of, template_of
from alpaca_cli.model.locate import ADAPTER_CONFIG, HUB_ID, run_of, weight_files
from alpaca_cli.model.student import quiet_transformers
from alpaca_cli.model.tokenizer import Tokenizer

REVISION = "0" * 40  # a hub cache names each version by its commit
SHARD = 5 * 10**9  # bytes in a file of merged weights
# `transformers serve` takes a request's temperature only where the model's default is to sample,
# and 0 is not allowed there. So near 0 every other token than the likeliest has no chance.
GREEDY = 1e-4


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder that is ready to be served.

    Attributes:
        name: by which clients ask for the model.
        cache: a hub cache in which this model is the only one.
        folder: the model's place in it.
        template: of the prompt, by name.
        notes: what the person should be told.
    """

    name: str
    cache: Path
    folder: Path
    template: str
    sampling: Sampling
    device: str
    dtype: str
    notes: tuple[str, ...] = ()


def served_name(named: str, folder: Path) -> str:
    """What clients call a model: the name of its run or folder, or its hub id."""
    if not Path(named).expanduser().exists() and HUB_ID.fullmatch(named):
        return named
    run = run_of(folder)
    own = run.name if run is not None else folder.resolve().name
    return re.sub(r"[^A-Za-z0-9_]+", "-", own).strip("-")[:96] or "model"


def prepare(source: Path, named: str, cache: Path) -> Prepared:
    """Make the folder.

    Args:
        source: a model's or an adapter's folder.
        named: what the person calls it.
        cache: an empty folder; it is small unless an adapter is merged into it.

    Raises:
        DataError: the model cannot be read, or an adapter's base is missing.
        ResourceError: memory or disk is too small for a merge.
        UsageError: this kind of adapter cannot be merged.
    """
    quiet_transformers()
    name = served_name(named, source)
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    own = {CHAT_TEMPLATE, GENERATION, ADAPTER_CONFIG}
    adapter = (source / ADAPTER_CONFIG).is_file()
    if adapter:
        merge(source, folder, "keep", SHARD)
        own |= {path.name for path in folder.iterdir()}
    else:
        _link(folder, [*weight_files(source), *source.glob("*.index.json")])
    _link(folder, [path for path in small_files(source) if path.name not in own])
    tokenizer = load_tokenizer(source)
    with loading(source):
        defaults = _generation_config(source if (source / GENERATION).is_file() else folder)
    template, notes = template_of(source, named, tokenizer)
    sampling = default_sampling(defaults)
    _write_generation_config(folder, defaults, tokenizer, sampling)
    _write_chat_template(folder, source, template, tokenizer)
    device, dtype = _where()
    return Prepared(name, cache, folder, template.name, sampling, device, dtype, notes)


def _link(folder: Path, files: list[Path]) -> None:
    for path in files:
        (folder / path.name).symlink_to(path.resolve())


def _generation_config(folder: Path) -> GenerationConfig:
    if (folder / GENERATION).is_file():
        return GenerationConfig.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return GenerationConfig.from_model_config(config)


def _write_generation_config(
    folder: Path, defaults: GenerationConfig, tokenizer: Tokenizer, sampling: Sampling
) -> None:
    """What ends an answer, and how the next token is chosen when a request does not say."""
    eos = eos_ids_of(defaults, tokenizer)
    (folder / GENERATION).unlink(missing_ok=True)  # of a merge: the base's
    GenerationConfig(
        eos_token_id=list(eos),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0],
        do_sample=True,
        temperature=sampling.temperature or GREEDY,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    ).save_pretrained(folder)


def _write_chat_template(
    folder: Path, source: Path, template: PromptTemplate, tokenizer: Tokenizer
) -> None:
    """Ours for a template of ours, over one that the tokenizer may bring; else the model's own."""
    own = source / CHAT_TEMPLATE
    (folder / CHAT_TEMPLATE).unlink(missing_ok=True)
    if not template.chat_template:
        (folder / CHAT_TEMPLATE).write_text(chat_template(template, tokenizer), encoding="utf-8")
    elif own.is_file():
        _link(folder, [own])


def _where() -> tuple[str, str]:
    """Device and precision, as `alpaca_cli.model.loading` chooses them."""
    if not torch.cuda.is_available():
        return "cpu", "float32"
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return "auto", "bfloat16" if supported else "float16"
