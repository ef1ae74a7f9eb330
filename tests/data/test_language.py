"""Languages are told by the real model: foreign tasks are found, and good ones are left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_filters import LANGUAGES, Filters
from alpaca_cli.data.filters import make_filter
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.language import MIN_LETTERS, make_detector, prose

pytest.importorskip("py3langid", reason="the extra [language] is not installed")


def reason(example: Example, *allowed: str) -> str:
    verdict = make_filter(Filters.model_validate({"language": list(allowed)}))(example)
    return verdict[0] if verdict else ""


SENTENCES = {
    "de": [
        "Schreibe ein kurzes Gedicht über den Herbst.",
        "Was ist der Unterschied zwischen Wetter und Klima?",
        "Wie kocht man ein Ei?",
        "Ordne die Tiere nach Gewicht.",
    ],
    "fr": [
        "Nommez trois capitales européennes.",
        "Résume le texte suivant.",
        "Pourquoi le ciel est-il bleu ?",
    ],
    "es": [
        "Escribe un poema corto sobre el otoño.",
        "¿Por qué el cielo es azul?",
        "Ordena los números de menor a mayor.",
    ],
    "it": ["Scrivi una breve poesia sull'autunno.", "Perché il cielo è blu?"],
    "pt": ["Escreva um poema curto sobre o outono.", "Por que o céu é azul?"],
    "nl": ["Schrijf een kort gedicht over de herfst.", "Waarom is de lucht blauw?"],
    "pl": ["Napisz krótki wiersz o jesieni.", "Dlaczego niebo jest niebieskie?"],
    "sv": ["Skriv en kort dikt om hösten.", "Varför är himlen blå?"],
    "ru": ["Напиши короткое стихотворение об осени.", "Почему небо голубое?"],
    "zh": ["写一首关于秋天的短诗。", "天空为什么是蓝色的？"],
    "ja": ["秋についての短い詩を書いてください。", "空はなぜ青いのですか？"],
}


def test_short_sentences_are_foreign_to_english_and_at_home_in_their_own() -> None:
    english = make_detector(["en"])
    for code, sentences in SENTENCES.items():
        own = make_detector([code])
        for sentence in sentences:
            assert english(sentence, MIN_LETTERS), sentence
            assert own(sentence, MIN_LETTERS) == "", sentence


@pytest.mark.parametrize(
    ("example", "allowed", "expected"),
    [
        (Example("Nenne drei Flüsse in Europa.", "", "Rhein, Elbe, Oder"), ["en"], "language"),
        (Example("Nenne drei Flüsse in Europa.", "", "Rhein, Elbe, Oder"), ["en", "de"], ""),
        (Example("Name three rivers of Europe.", "", "Rhine, Elbe, Oder"), ["de"], "language"),
        (
            Example("Describe it now.", "", "Der Himmel ist blau, denn die Luft streut das Licht."),
            ["en"],
            "language",
        ),
        (
            Example("Translate into German.", "The sky is blue.", "Der Himmel ist blau und weit."),
            ["en"],
            "",
        ),
        (
            Example(
                "Write a card in French.", "", "Chère tante, je te souhaite une bonne fête."
            ),
            ["en"],
            "",
        ),
        (
            Example("Übersetze ins Englische.", "Das Haus", "The house on the hill is very old."),
            ["de"],
            "",
        ),
        (
            Example("用“shimmer”这个词造句。", "", "The lake began to shimmer in the evening sun."),
            ["zh"],
            "",
        ),
        (
            Example("List dishes of Italy.", "", "- Ragù bolognese\n- Pasta al forno\n- Tiramisù"),
            ["en"],
            "",
        ),
        (Example("Add 15 and 27 up.", "", "42"), ["de"], ""),
        (Example("Write a loop in Go.", "", "for i := range xs {\n\tsuma += i\n}"), ["en"], ""),
    ],
    ids=lambda value: value.instruction if isinstance(value, Example) else "",
)  # fmt: skip
def test_tasks(example: Example, allowed: list[str], expected: str) -> None:
    assert reason(example, *allowed) == expected


def test_only_prose_is_judged() -> None:
    text = 'Say "Guten Morgen, liebe Leute" 3 times, see https://a.org/b:\n```\nfor x in y\n```'
    assert prose(text) == "Say times, see"
    assert prose("SELECT a.b, c.d FROM t[0] WHERE x = {y};") == ""


def test_every_code_of_the_settings_is_known_to_the_model() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    labels = LanguageIdentifier.from_model_file(MODEL_FILE).labels
    assert [code for code in labels if len(code) == 2 and code not in LANGUAGES] == []
    assert [code for code in LANGUAGES if code not in labels] == []


@pytest.mark.parametrize(
    ("file", "code", "foreign"),
    [
        ("alpaca_en_demo.json", "en", []),
        ("code_alpaca_2k.json", "en", []),
        ("seed_tasks.jsonl", "en", []),
        ("user_oriented_instructions.jsonl", "en", []),
        # Looked at by hand: Chinese questions with an English answer that nobody asked for.
        ("alpaca_zh_demo.json", "zh", [57, 333, 354, 422, 459, 577, 626, 894]),
    ],
)
def test_real_rows_in_their_own_language(
    real_data: Path, file: str, code: str, foreign: list[int]
) -> None:
    settings = Filters.model_validate(
        {"language": [code], "off": ["script_mix", "refusal", "missing_input"]}
    )
    check = make_filter(settings)
    verdicts = map(check, read_examples([real_data / file]))
    found = [row for row, verdict in enumerate(verdicts, 1) if verdict and verdict[0] == "language"]
    assert found == foreign


@pytest.mark.parametrize(
    ("file", "code"), [("alpaca_zh_demo.json", "en"), ("alpaca_en_demo.json", "de")]
)
def test_real_rows_in_another_language(real_data: Path, file: str, code: str) -> None:
    check = make_filter(Filters.model_validate({"language": code}))
    verdicts = [check(example) for example in read_examples([real_data / file])]
    assert sum(verdict is not None for verdict in verdicts) >= 0.98 * len(verdicts)


def test_without_the_library_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['py3langid'] = None\n"
        "from alpaca_cli.core.settings_filters import Filters\n"
        "from alpaca_cli.data.filters import make_filter\n"
        "make_filter(Filters())\n"
        "make_filter(Filters(language=['en'], off=['language']))\n"
        "from alpaca_cli.core.errors import UsageError\n"
        "try: make_filter(Filters(language=['en']))\n"
        "except UsageError as error: print(error, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "this needs py3langid" in done.stdout
    assert "[language]" in done.stdout
