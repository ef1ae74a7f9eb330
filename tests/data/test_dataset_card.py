"""The dataset card: front matter that the Hub's own library reads, and text that claims nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from huggingface_hub import DatasetCard

from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Group, Producer, Report, Sample
from alpaca_cli.data.dataset_card import dataset_card, languages, license_fields, size_category
from alpaca_cli.data.dataset_card_markdown import code, fenced, literal, table
from tests.data.reports import make_report, synthetic_rows
from tests.data.test_check_output import NASTY, Cells, page_of

RUN = make_report(synthetic_rows(600), verdict=False)
FILE = replace(RUN, source="data/mine.json", provenance=None, seeds=None)
RECIPE = load_recipe("52k")
SECTIONS = [
    "Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution",
    "Maintenance",
]  # fmt: skip
# Answers of the Hub's schema (huggingface.co/docs/hub/datasets-cards).
SIZES = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M"]


def front_matter(text: str) -> dict[str, object]:
    fields = vars(DatasetCard(text, ignore_metadata_errors=False).data)
    return {name: value for name, value in fields.items() if value is not None}


def answers(text: str) -> dict[str, str]:
    """Question -> answer."""
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.M)[1:]
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


def test_the_front_matter_of_a_run() -> None:
    text = dataset_card(RUN, RECIPE, license="CC-BY-4.0", data_files=["kept.jsonl"])
    assert front_matter(text) == {
        "license": "cc-by-4.0",
        "language": ["en", "de"],
        "multilinguality": "multilingual",
        "pretty_name": "52k",
        "size_categories": ["n<1K"],
        "task_categories": ["text-generation"],
        "tags": ["alpaca", "instruction-tuning", "self-instruct", "synthetic"],
        "language_creators": ["machine-generated"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "kept.jsonl"}]}
        ],
    }


def test_the_front_matter_of_a_file_claims_less() -> None:
    data = front_matter(dataset_card(FILE, RECIPE))
    assert data["pretty_name"] == "mine"
    assert data["tags"] == ["alpaca", "instruction-tuning"]
    assert not {"license", "license_name", "configs", "language_creators"} & data.keys()


@pytest.mark.parametrize("name", [": \n- x", "---", "# {a: b}", "'\"", "Ångström 🦙"])
def test_any_name_is_a_title(name: str) -> None:
    text = dataset_card(FILE, None, name=name)
    assert front_matter(text)["pretty_name"] == " ".join(name.split())
    page = page_of(DatasetCard(text).text)
    title = Cells(f"<table><td>{page.splitlines()[0]}</td></table>")
    assert title.cells == [" ".join(name.split())]


@pytest.mark.parametrize(
    ("license", "fields"),
    [
        (None, {}),
        (" ", {}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("llama3.1", {"license": "llama3.1"}),
        ("My own (v2)", {"license": "other", "license_name": "my-own-v2"}),
    ],
)
def test_a_licence_is_what_the_maker_says(license: str | None, fields: dict[str, str]) -> None:
    assert license_fields(license) == fields


def test_without_a_licence_the_card_says_so() -> None:
    terms = answers(dataset_card(RUN, RECIPE))["Under which licence?"]
    assert terms.startswith("**No licence is stated.**")
    assert "Not known" in terms
    stated = answers(dataset_card(RUN, RECIPE, license="mit"))["Under which licence?"]
    assert stated == "<code>mit</code>, as the maker says."


@pytest.mark.parametrize(
    ("count", "size"), [(0, 0), (999, 0), (1_000, 1), (52_002, 2), (10**6, 4), (10**7, 5)]
)
def test_sizes_are_the_hubs_words(count: int, size: int) -> None:
    assert size_category(count) == SIZES[size]


def test_languages_are_those_of_a_share_of_the_texts() -> None:
    assert languages(RUN) == ["en", "de"]  # French and Chinese are below 2 %, unknown is none
    by_script = replace(RUN.languages, method="script", output={"Latin": Group(600, 1.0, [])})
    scripts = replace(RUN, languages=by_script)
    assert languages(scripts) == []
    text = dataset_card(scripts, RECIPE)
    assert "language" not in front_matter(text)
    assert "*Not known:* the languages" in answers(text)["Which languages?"]


def test_every_section_of_a_datasheet_is_there() -> None:
    for text in (dataset_card(RUN, RECIPE), dataset_card(FILE, None)):
        assert re.findall(r"^## (.*)$", text, flags=re.M) == SECTIONS
        for question, answer in answers(text).items():
            assert answer or question in SECTIONS


def test_a_run_tells_how_it_was_made() -> None:
    found = answers(dataset_card(RUN, RECIPE))
    origin = found["Where do the examples come from?"]
    assert "A language model wrote them" in origin
    assert "<code>teacher-mini0</code>" in origin
    assert "temperature 1 and top_p 1" in origin
    assert (
        "asked for 20 tasks and showed 3 seeds"
        in found["From which seeds, and how were they asked for?"]
    )
    made = found["How many were written, and how many stayed?"]
    assert "2,930 requests" in made
    assert "41.27 USD" in made
    assert Cells(page_of(made)).cells[2:] == [
        "written by the teacher", "780",
        "rejected: similar", "120", "rejected: too short", "30", "rejected: blacklist", "10",
        "kept by generate", "620", "dropped: near-duplicate", "20", "kept by dedup", "600",
    ]  # fmt: skip
    done = found["What was done to the raw data?"]
    assert "<code>screenshot</code>" in done
    assert "above 0.7" in done


def test_a_file_was_not_made_by_the_recipe_at_hand() -> None:
    text = dataset_card(FILE, RECIPE)
    found = answers(text)
    assert "*Not known:*" in found["Where do the examples come from?"]
    assert "*Not known:*" in found["What was done to the raw data?"]
    assert "From which seeds, and how were they asked for?" not in found
    for word in ("gpt-6-luna", "temperature", "screenshot", "52k", "language model wrote"):
        assert word not in text


def test_rows_that_name_their_teacher_are_no_run() -> None:
    assert RUN.provenance is not None
    rows = replace(FILE, provenance=replace(RUN.provenance, funnel=None, cost=None))
    found = answers(dataset_card(rows, RECIPE))
    assert "teacher-mini0" in found["Where do the examples come from?"]
    assert "not a whole run" in found["Where do the examples come from?"]
    assert "*Not known:*" in found["How many were written, and how many stayed?"]


def test_the_embedded_teacher_is_no_language_model() -> None:
    assert RUN.provenance is not None
    teacher = Producer("procedural", 1, 1, 1, 1.0, {}, 0, None, None)
    made = replace(RUN, provenance=replace(RUN.provenance, teachers=[teacher]))
    text = dataset_card(made, Recipe())
    assert "embedded teacher" in text
    assert "anguage model wrote" not in text
    assert "provider" not in text


def test_no_address_no_path_and_no_key_is_published() -> None:
    recipe = load_recipe(
        "52k",
        overrides=[
            "generate.teacher.base_url=http://10.1.2.3:8000/v1",
            "generate.teacher.api_key_env=SECRET_NAME",
            "generate.prompt=/home/me/prompt.txt",
            "seeds.source=/home/me/seeds.jsonl",
            "dedup.decontaminate=[/home/me/mmlu.jsonl]",
        ],
    )
    assert RUN.provenance is not None
    teacher = replace(RUN.provenance.teachers[0], name="/home/me/models/student")
    made = replace(RUN, provenance=replace(RUN.provenance, teachers=[teacher]))
    text = dataset_card(made, recipe)
    for private in ("10.1.2.3", "SECRET_NAME", "/home", "home/me"):
        assert private not in text
    for public in ("prompt.txt", "seeds.jsonl", "mmlu.jsonl", "<code>student</code>"):
        assert public in text


def nasty(text: str) -> Report:
    """A report in which everything that comes from data is this text."""
    rows = [Sample(1, text, text, text)]
    some = Group(600, 1.0, rows)
    assert RUN.provenance is not None
    return replace(
        RUN,
        task_types={text: some},
        groups={"category": {text: some}},
        openings=replace(RUN.openings, verbs=[replace(RUN.openings.verbs[0], verb=text)]),
        lint={text: replace(RUN.lint["refusal"], about=text, rows=rows)},
        provenance=replace(
            RUN.provenance, teachers=[replace(RUN.provenance.teachers[0], name=text)]
        ),
        notes=[text],
    )


@pytest.mark.parametrize("text", [*NASTY, "```\n# Heading\n````", "<!--", "~~~"])
def test_the_card_shows_the_data_as_it_is(text: str) -> None:
    page = page_of(DatasetCard(dataset_card(nasty(text), RECIPE)).text)
    shown = " ".join("".join(sign for sign in text if sign >= " " or sign == "\n").split())
    found = Cells(page)
    assert found.tags <= {
        "h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "td", "th", "code", "pre", "em",
        "strong", "ul", "li",
    }  # fmt: skip
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == SECTIONS
    assert found.cells.count(shown) >= 4
    assert "\x1b" not in page


def test_literal_text_in_one_cell() -> None:
    assert table(["a", "b>"], [[literal("x|y"), "1"]]) == (
        "| a | b |\n| --- | ---: |\n| x&#124;y | 1 |"
    )
    assert code("_a_b_") == "<code>&#95;a_b&#95;</code>"
    assert literal("1. - x") == "1&#46; - x"
    assert literal("- x") == "&#45; x"
    assert literal("plain words, (brackets) and 3.5 %") == "plain words, (brackets) and 3.5 %"


def test_a_fence_is_longer_than_what_it_holds() -> None:
    block = fenced("a\n````\nb")
    assert block == "`````text\na\n````\nb\n`````"


def test_a_set_without_examples_has_a_card() -> None:
    none = replace(
        FILE, examples=0, lengths={}, tokens=None, task_types={}, diversity={}, duplicates={},
        lint={}, groups={}, contamination=None, notes=[],
        neighbours=replace(FILE.neighbours, scores=None),
    )  # fmt: skip
    assert front_matter(dataset_card(none, None))["size_categories"] == ["n<1K"]
