"""A dataset card: the README that the Hub shows, with the questions of a datasheet.

The YAML front matter is what the Hub reads (huggingface.co/docs/hub/datasets-cards); the text
asks what "Datasheets for Datasets" (Gebru et al. 2021, arXiv:1803.09010) asks, in words of ours,
section by section: motivation, composition, collection, preprocessing, uses, distribution,
maintenance. Answers come from the figures of a stats report and, for a run, from its recipe. What
neither knows stands there as not known: nothing is guessed, least of all a licence.

Nothing is read or sent here. What the sections say is in `dataset_card_contents` (the examples) and
`dataset_card_making` (how they came about, what they are for).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Report
from alpaca_cli.data.dataset_card_contents import composition
from alpaca_cli.data.dataset_card_making import (
    collection,
    computed,
    distribution,
    maintenance,
    motivation,
    preprocessing,
    uses,
)
from alpaca_cli.data.dataset_card_markdown import literal

MIN_LANGUAGE_SHARE = 0.02
"""A language of fewer instructions and outputs than this is not named: short texts are misread."""

# The Hub's words for sizes: fewer than so many examples.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def dataset_card(
    report: Report,
    recipe: Recipe | None,
    *,
    license: str | None = None,
    name: str | None = None,
    data_files: Sequence[str] = (),
) -> str:
    """The whole README.md.

    Args:
        recipe: of the run that made the examples. It is read only when the report knows the run's
            candidates; files from elsewhere were not made by the recipe that is at hand.
        license: what the maker says, best as an SPDX or Hub identifier (`cc-by-4.0`); without one
            the card says that no licence is stated.
        name: title of the dataset; the recipe's name or the file's when not given.
        data_files: where the examples are, seen from the card.

    Raises:
        UsageError: huggingface_hub is not installed.
    """
    made_by = recipe if _is_a_run(report) else None
    title = name or (made_by.name if made_by is not None else Path(report.source).stem)
    sections = (
        composition(report),
        collection(report, made_by),
        preprocessing(report, made_by),
        uses(report),
        distribution(report, license),
        maintenance(report),
    )
    return (
        "\n\n".join(
            [
                f"---\n{_front_matter(report, title, license, data_files)}\n---",
                f"# {literal(title)}",
                _summary(report),
                motivation(report, made_by),
                *sections,
            ]
        ).rstrip()
        + "\n"
    )


def languages(report: Report) -> list[str]:
    """ISO 639 codes of the languages that instructions or outputs are in, the most frequent first;
    none when only scripts were counted."""
    if report.languages.method == "script":
        return []
    found = report.languages
    shares: dict[str, float] = {}
    for groups in (found.instruction, found.output):
        for code, group in groups.items():
            shares[code] = max(shares.get(code, 0.0), group.share)
    frequent = [code for code, share in shares.items() if share >= MIN_LANGUAGE_SHARE]
    return sorted(
        (code for code in frequent if re.fullmatch("[a-z]{2,3}", code)),
        key=lambda code: (-shares[code], code),
    )


def license_fields(license: str | None) -> dict[str, str]:
    """The front matter's words for a licence: an identifier, or `other` with a name.

    Whether the Hub knows an identifier is for the Hub to say, when the card is uploaded.
    """
    if license is None or not license.strip():
        return {}
    identifier = license.strip().lower()
    if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", identifier):
        return {"license": identifier}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+]+", "-", identifier).strip("-")}


def _front_matter(
    report: Report, title: str, license: str | None, data_files: Sequence[str]
) -> str:
    from huggingface_hub import DatasetCardData

    found = languages(report)
    fields: dict[str, Any] = license_fields(license)
    if found:
        fields |= {
            "language": found,
            "multilinguality": "monolingual" if len(found) == 1 else "multilingual",
        }
    tags = ["alpaca", "instruction-tuning"]
    if report.provenance is not None:  # a teacher wrote them
        tags += ["self-instruct", "synthetic"]
        fields["language_creators"] = ["machine-generated"]
    if data_files:
        files = [{"split": "train", "path": file} for file in data_files]
        fields["configs"] = [{"config_name": "default", "data_files": files}]
    data = DatasetCardData(
        pretty_name=" ".join(title.split()),
        size_categories=[size_category(report.examples)],
        task_categories=["text-generation"],
        tags=tags,
        **fields,
    )
    return str(data.to_yaml())


def size_category(examples: int) -> str:
    """The Hub's word for so many examples."""
    return next((name for limit, name in _SIZES if examples < limit), "n>10M")


def _summary(report: Report) -> str:
    if report.provenance is None:
        written = "Nothing in them says who wrote them."
    elif computed(report):
        written = "The embedded teacher of alpaca computed them."
    else:
        written = "A language model wrote them."
    return (
        f"{report.examples:,} examples, each an instruction and an output; "
        f"{report.with_input_share:.1%} have an input besides. {written}\n\n"
        "The figures of this card were measured by `alpaca stats`. Where it says *Not known*, they "
        "cannot tell, and the maker of this dataset has to."
    )


def _is_a_run(report: Report) -> bool:
    return report.provenance is not None and report.provenance.funnel is not None
