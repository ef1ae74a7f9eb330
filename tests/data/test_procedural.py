"""The embedded teacher's answers, worked out again from the text of the task alone.

Each `check_<family>` reads instruction and input as a person would and derives the answer by
other means than the generator: datetime and calendar, the csv and json modules, `exec` of the
snippet, set operations, another Roman algorithm. For questions of vocabulary the word lists
are the truth and only their use is checked.
"""

from __future__ import annotations

import calendar
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

import alpaca_cli.data.procedural as procedural
from alpaca_cli.core.errors import UsageError
from alpaca_cli.data.procedural import Task, draw, families, family_names

WORDS: dict[str, Any] = yaml.safe_load(
    (Path(procedural.__file__).parent / "lexicon.yaml").read_text("utf-8")
)
KIND_OF = {word: kind for kind, words in WORDS["kinds"].items() for word in words}
GOODS = dict.fromkeys(WORDS["goods"], "goods")
NAMES = WORDS["girls"] + WORDS["boys"]
VOCABULARY = set(re.findall(r"\w+", str(WORDS).lower())) - {"a", "the", "works", "rhymes", "third"}
NUMBER_NAMES = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty",
)
ORDINAL_NAMES = re.findall(
    r"\S+",
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
    " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
    " twenty-first twenty-second twenty-third twenty-fourth twenty-fifth twenty-sixth"
    " twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first",
)
DRAWS = 300


def any_task(rng: Random, *, held_out: bool = False) -> Task:
    return draw(rng, rng.choice(family_names()), held_out=held_out)


def tasks_of(name: str, seed: int = 7) -> list[Task]:
    """Training and held-out tasks of one family."""
    rng = Random(seed)
    return [draw(rng, name, held_out=i % 3 == 0) for i in range(DRAWS)]


# ------------------------------------------------------------------- reading a task as text


def asked(task: Task) -> str:
    return f"{task.instruction}\n{task.input}"


def numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def items(text: str) -> list[str]:
    """The comma list in the text."""
    found = re.search(r"\w+(?:, \w+)+", text)
    assert found, text
    return found[0].split(", ")


def sentence_in(task: Task) -> str:
    """The short sentence that a task is about: the input, or what ends the instruction."""
    if task.input:
        return task.input
    return re.split(r"[:?.] (?=[A-Z][^:]*[.?!]$)", task.instruction, maxsplit=1)[-1]


def says(task: Task, answer: object) -> None:
    """The output is the bare answer, or a whole sentence with it where one is asked for."""
    text = str(answer)
    if "full sentence" in task.instruction or "short sentence" in task.instruction:
        assert re.search(rf"(?<!\w){re.escape(text)}(?!\w)", task.output), task
        assert re.fullmatch(r"[A-Z0-9].*[.!?]", task.output, re.DOTALL), task
        grounded(task, text)
    else:
        assert task.output == text, task


def grounded(task: Task, answer: object) -> None:
    """Apart from the answer, the output brings in no number and no word of the word lists."""
    said, given = (
        set(re.findall(r"\w+", text.lower())) for text in (task.output, f"{asked(task)} {answer}")
    )
    assert not {word for word in said - given if word.isdigit() or word in VOCABULARY}, task


def run_python(code: str) -> str:
    """What our own generated snippet prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue().removesuffix("\n")


# ------------------------------------------------------------------------------ arithmetic


def check_addition(task: Task) -> None:
    a, b = numbers(asked(task))
    assert numbers(task.output)[-1] == a + b, task
    assert numbers(task.output)[:-1] in ([], [a, b]), task


check_large_sum = check_addition


def check_subtraction(task: Task) -> None:
    low, high = sorted(numbers(asked(task)))
    assert numbers(task.output)[-1] == high - low, task
    grounded(task, high - low)


def check_times_table(task: Task) -> None:
    a, b = numbers(asked(task))
    assert numbers(task.output)[-1] == sum([a] * b), task
    assert numbers(task.output)[:-1] in ([], [a, b]), task


check_large_product = check_times_table


def check_addition_in_words(task: Task) -> None:
    text = re.sub("the two|one word", "", asked(task))
    a, b = (w for w in re.findall(r"[a-z]+", text) if w in NUMBER_NAMES)
    answer = NUMBER_NAMES[NUMBER_NAMES.index(a) + NUMBER_NAMES.index(b)]
    assert re.findall(r"[a-z]+", task.output)[-1] == answer, task
    assert task.output in (answer, f"{a.capitalize()} plus {b} equals {answer}."), task


def check_word_problem(task: Task) -> None:
    found = re.search(r"has (\d+) \w+ and (\w+) (\d+)", asked(task))
    assert found
    gain = {"buys": 1, "gets": 1, "finds": 1, "gives": -1, "loses": -1, "sells": -1}[found[2]]
    says(task, int(found[1]) + gain * int(found[3]))


def check_shopping_total(task: Task) -> None:
    assert numbers(task.output) == [sum(numbers(asked(task)))], task
    assert task.output.startswith("$") == ("dollar sign" in task.instruction), task


def check_unit_conversion(task: Task) -> None:
    sizes = {"millimeters": 1, "centimeters": 10, "meters": 1000, "kilometers": 1_000_000}
    sizes |= {"grams": 1, "kilograms": 1000, "inches": 1, "feet": 12, "cents": 1, "dollars": 100}
    sizes |= {"seconds": 1, "minutes": 60, "hours": 3600, "days": 1, "weeks": 7}
    sizes |= {"months": 1, "years": 12}
    found = re.search(r"(\d+) (\w+)", asked(task))
    assert found
    (small,) = {w for w in re.findall(r"\w+", asked(task)) if w in sizes} - {found[2]}
    answer = int(found[1]) * sizes[found[2]] // sizes[small]
    if task.instruction.startswith("Convert"):
        assert task.output == f"{answer} {small}", task
    else:
        says(task, answer)


# --------------------------------------------------------------------------------- numbers


def check_larger_number(task: Task) -> None:
    a, b = numbers(asked(task))
    if "sign" in task.instruction:
        assert eval(task.output) is True, task
        assert numbers(task.output) == [a, b], task
    elif "sentence" in task.instruction:
        assert task.output == f"{max(a, b)} is larger than {min(a, b)}.", task
    else:
        assert task.output == str(max(a, b) if "larger" in task.instruction else min(a, b)), task


def check_extreme_number(task: Task) -> None:
    found = numbers(asked(task))
    if "smallest and the largest" in task.instruction:
        assert numbers(task.output) == [min(found), max(found)], task
    else:
        says(task, max(found) if "largest" in task.instruction else min(found))


def check_even_or_odd(task: Task) -> None:
    (n,) = numbers(asked(task))
    parity = "even" if str(n)[-1] in "02468" else "odd"
    if "yes or no" in task.instruction:
        says(task, "yes" if parity in task.instruction else "no")
    else:
        says(task, parity)


def check_roman_numerals(task: Task) -> None:
    (n,) = numbers(asked(task)) or numbers(task.output)
    (roman,) = re.findall(r"\b[IVXL]+\b", asked(task)) or re.findall(r"\b[IVXL]+\b", task.output)
    assert re.fullmatch(r"(XL|L?X{0,3})(IX|IV|V?I{0,3})", roman), task
    worth = [{"I": 1, "V": 5, "X": 10, "L": 50}[letter] for letter in roman]
    total = sum(-a if a < b else a for a, b in pairwise([*worth, 0]))
    assert total == n, task


def check_number_words(task: Task) -> None:
    digits, words = (asked(task), task.output) if numbers(asked(task)) else (task.output, "")
    (n,) = numbers(digits)
    text = words or asked(task)
    tens = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
    tens |= {"sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
    units = {name: i for i, name in enumerate(NUMBER_NAMES[:20])}
    spelled = [w for w in re.findall(r"[a-z]+", text) if w in tens or w in units]
    assert sum((tens | units)[w] for w in spelled) == n, task
    assert ("-".join(spelled)) in text, task


def check_ordinal(task: Task) -> None:
    both = f"{asked(task)} {task.output}"
    n = numbers(both)[0]
    (short,) = re.findall(r"\d+(?:st|nd|rd|th)", both) or [""]
    if short:
        ones = {"st": (1, 21, 31), "nd": (2, 22), "rd": (3, 23)}
        ending = next((end for end, numbers in ones.items() if n in numbers), "th")
        assert short == f"{n}{ending}", task
        grounded(task, short)
    if "in words" in task.instruction or not numbers(asked(task)):
        assert ORDINAL_NAMES[n] in (task.output, task.input), task


def check_next_number(task: Task) -> None:
    terms = numbers(asked(task))
    (step,) = {b - a for a, b in pairwise(terms)}
    expected = [terms[-1] + step, terms[-1] + 2 * step]
    assert numbers(task.output) == expected[: 2 if "two" in task.instruction else 1], task


def check_sort_numbers(task: Task) -> None:
    down = "largest to smallest" in task.instruction
    assert numbers(task.output) == sorted(numbers(asked(task)), reverse=down), task


check_sort_six_numbers = check_sort_numbers


# ----------------------------------------------------------------------------------- lists


def check_count_items(task: Task) -> None:
    n = asked(task).count(", ") + 1
    word = "with a word" in task.instruction or "sentence" in task.instruction
    says(task, NUMBER_NAMES[n] if word else n)


def check_pick_item(task: Task) -> None:
    found = items(asked(task))
    places = {"first": 0, "second": 1, "third": 2, "last": -1}
    picked = [found[i] for place, i in places.items() if f"{place} " in task.instruction]
    if "first and" in task.instruction:
        assert task.output == f"{found[0]} and {found[-1]}", task
    else:
        assert len(picked) == 1, task
        says(task, picked[0])


def check_reverse_list(task: Task) -> None:
    separator = "\n" if "own line" in task.instruction else ", "
    assert task.output.split(separator)[::-1] == items(asked(task)), task


def check_join_list(task: Task) -> None:
    given = task.input or task.instruction.split(": ")[1]
    words = re.findall(r"\w+", given)
    if "series" in task.instruction:
        assert task.output == "{}, {}, and {}".format(*words), task
    else:
        assert re.findall(r"\w+", task.output) == words, task
        sign = {"commas": ", ", "dashes": "-", "bulleted": "\n- "}
        (mark,) = {sign[key] for key in sign if key in task.instruction}
        assert task.output.removeprefix("- ").split(mark) == words, task


def check_remove_duplicates(task: Task) -> None:
    given = (task.input or task.instruction.split(": ")[1]).rstrip("?")
    separator = ", " if "," in given else " "
    kept: list[str] = []
    for word in given.split(separator):
        if word not in kept:
            kept.append(word)
    many = "How many" in task.instruction
    assert task.output == (str(len(kept)) if many else separator.join(kept)), task


def check_find_duplicate(task: Task) -> None:
    given = re.findall(r"\w+", task.input or task.instruction.split(": ")[1])
    (repeated,) = [word for word, count in Counter(given).items() if count == 2]
    says(task, repeated)


def check_sort_words(task: Task) -> None:
    down = "reverse" in task.instruction
    assert task.output.split(", ") == sorted(items(asked(task)), reverse=down), task


def check_alphabetical_order(task: Task) -> None:
    pool = {*WORDS["colors"], *WORDS["kinds"]["animal"]}
    first, second = sorted(w for w in re.findall(r"\w+", asked(task)) if w in pool)
    if "order" in task.instruction:
        assert task.output == f"{first}, {second}", task
    elif "sentence" in task.instruction:
        assert task.output == f"The word {first} comes before {second}.", task
    else:
        assert task.output == (second if "last" in task.instruction else first), task


def check_set_operations(task: Task) -> None:
    a, b = (found.split(", ") for found in re.findall(r"\w+, \w+, \w+", asked(task)))
    if "union" in task.instruction:
        assert task.output.split(", ") == list(dict.fromkeys(a + b)), task
    elif "but not" in task.instruction:
        assert set(task.output.split(", ")) == set(a) - set(b), task
    else:
        (common,) = set(a) & set(b)
        says(task, common)


def check_membership(task: Task) -> None:
    found = items(asked(task))
    word = re.search(r"(?:[Ii]s|[Ii]s the word|contain) (\w+)(?= in|\?)", task.instruction)
    assert word
    inside = word[1] in found
    if "sentence" in task.instruction:
        verb = "is" if inside else "is not"
        assert task.output == f"The word {word[1]} {verb} in the list.", task
    else:
        pair = ("yes", "no") if "yes" in task.instruction else ("true", "false")
        assert task.output == pair[not inside], task


def check_odd_one_out(task: Task) -> None:
    found = items(asked(task))
    counts = Counter(KIND_OF[word] for word in found)
    (odd,) = [word for word in found if counts[KIND_OF[word]] == 1]
    (kind,) = [kind for kind, count in counts.items() if count == 3]
    assert task.output.split(",")[0] == odd, task
    assert ("reason" not in task.instruction) or task.output.endswith(kind), task


# --------------------------------------------------------------------------------- editing


def check_change_case(task: Task) -> None:
    if "Start each" in task.instruction:
        words = task.instruction.split(" of ")[1].split(" with ")[0].split()
        assert task.output == " ".join(word[0].upper() + word[1:] for word in words), task
    else:
        upper = "capital" in task.instruction
        assert task.output.isupper() if upper else task.output.islower(), task
        assert task.output.casefold() in asked(task).casefold(), task


def check_word_in_sentence(task: Task) -> None:
    words = sentence_in(task).rstrip(".").split()
    places = {"first": 0, "second": 1, "third": 2, "last": -1}
    picked = [words[i] for place, i in places.items() if f"{place} word" in task.instruction]
    if "first and" in task.instruction:
        assert task.output == f"{words[0]} and {words[-1]}", task
    else:
        assert len(picked) == 1, task
        says(task, picked[0])


def check_remove_word(task: Task) -> None:
    sentence = sentence_in(task)
    (color,) = set(re.findall(r"\w+", sentence)) & set(WORDS["colors"])
    assert task.output == sentence.replace(f"{color} ", ""), task
    assert color in task.instruction or "color" in task.instruction, task


def check_replace_word(task: Task) -> None:
    sentence = sentence_in(task)
    old, new = re.findall(r"(\w+) (?:with|to|for) (\w+)", task.instruction)[0]
    if task.instruction.startswith("Write"):
        old, new = new, old
    assert task.output == re.sub(rf"\b{old}\b", new, sentence), task


def check_reverse_word(task: Task) -> None:
    pattern = r"word (\w+) backwards|letters of (?!the)(\w+)|what is (\w+) spelled"
    found = re.search(pattern, task.instruction)
    word = next(filter(None, found.groups())) if found else task.input
    backwards = "".join(word[-i] for i in range(1, len(word) + 1))
    assert re.findall(r"\w+", task.output)[-1] == backwards, task


def check_count_letters(task: Task) -> None:
    letter = re.search(r"letter (\w)\b", task.instruction)
    word = task.input or re.findall(r"word (\w+)", task.instruction)[0]
    count = sum(c == letter[1] for c in word) if letter else len(word)
    assert numbers(task.output) == [count], task


def check_count_vowels(task: Task) -> None:
    text = task.input or re.findall(r"in (?:the words )?(\w+ \w+)[.?]", task.instruction)[0]
    assert "y" not in text
    assert numbers(task.output) == [len(re.findall("[aeiou]", text))], task


def check_count_words(task: Task) -> None:
    assert numbers(task.output) == [len(sentence_in(task).split())], task


def check_acronym(task: Task) -> None:
    named = re.search(r"[A-Z]\w+ [A-Z]\w+ [A-Z]\w+", task.input or task.instruction[1:])
    assert named
    letters = "".join(filter(str.isupper, named[0]))
    if "period" in task.instruction:
        assert task.output == ".".join(letters) + ".", task
    elif "parentheses" in task.instruction:
        assert task.output == f"{named[0]} ({letters})", task
    else:
        assert task.output == letters, task


# ----------------------------------------------------------------------------------- dates


def check_weekday(task: Task) -> None:
    (day,) = re.findall(r"\b(?!Today)[A-Z]\w+day\b", asked(task))
    start = date(2024, 1, 1) + timedelta(list(calendar.day_name).index(day))
    shift = (
        -1 if re.search("before|yesterday", task.instruction) else (numbers(asked(task)) or [1])[0]
    )
    says(task, (start + timedelta(shift)).strftime("%A"))


def check_month(task: Task) -> None:
    names = list(calendar.month_name)
    found = [w for w in re.findall(r"[A-Z]\w+", asked(task)) if w in names]
    if not found:
        assert task.output == names[numbers(task.instruction)[0]], task
    elif "number" in task.instruction:
        assert task.output == str(datetime.strptime(found[0], "%B").month), task
    else:
        shift = -1 if re.search("before|after leaving", task.instruction) else 1
        assert task.output == names[(names.index(found[0]) + shift - 1) % 12 + 1], task


def check_month_length(task: Task) -> None:
    month, year = re.findall(r"([A-Z]\w+) (\d{4})", asked(task))[0]
    days = calendar.monthrange(int(year), list(calendar.month_name).index(month))[1]
    if "last day" in task.instruction:
        assert task.output == f"{month} {days}, {year}", task
    else:
        says(task, days)


def check_days_between(task: Task) -> None:
    dates = re.findall(rf"({'|'.join(calendar.month_name[1:])}) (\d+)", asked(task))
    days = [datetime.strptime(f"2023 {m} {d}", "%Y %B %d") for m, d in dates]
    if len(days) == 2:
        says(task, abs((days[1] - days[0]).days))
    else:
        (n,) = re.findall(r"(\d+) days after", task.instruction)
        end = days[0] + timedelta(int(n))
        assert task.output == f"{end:%B} {end.day}", task


def check_time_addition(task: Task) -> None:
    (start,) = re.findall(r"\d+:\d\d", asked(task))
    (minutes,) = re.findall(r"(\d+) minutes", asked(task))
    end = datetime.strptime(start, "%H:%M") + timedelta(minutes=int(minutes))
    says(task, f"{end.hour}:{end:%M}")


# ------------------------------------------------------------------------------- knowledge


def check_antonym(task: Task) -> None:
    opposite = dict(WORDS["antonyms"]) | {b: a for a, b in WORDS["antonyms"]}
    named = re.findall(r"(?:of|to) (?!the|these)(\w+)[.?:]", task.instruction)
    word = named[0] if named else task.input
    says(task, opposite[word])
    if "," in asked(task):
        assert opposite[word] in items(asked(task)), task


def check_plural(task: Task) -> None:
    singular_of = {many: one for one, many in WORDS["plurals"].items()}
    named = re.findall(r"(?:plural|singular) of (?!the)(\w+)", task.instruction)
    word = named[0] if named else task.input
    if "singular" in task.instruction:
        assert task.output == singular_of.get(word, word.removesuffix("s")), task
    else:
        plural = {one: many for many, one in singular_of.items()}.get(word, word + "s")
        if "gap" in task.instruction:
            assert task.output == task.input.replace("___", plural), task
        else:
            says(task, plural)
        # What the spelling rules ask for must be listed as irregular.
        assert plural != word + "s" or not re.search(r"(s|x|ch|sh|[^aeiou]y)$", word), task


def check_capital(task: Task) -> None:
    capital_of = {country: row[0] for country, row in WORDS["countries"].items()}
    country_of = {capital: country for country, capital in capital_of.items()}
    countries = [country for country in capital_of if country in asked(task)]
    if countries:
        says(task, capital_of[countries[0]])
    else:
        (city,) = [city for city in country_of if city in asked(task)]
        assert task.output == country_of[city], task


def check_continent(task: Task) -> None:
    rows = [(land, *row) for land, row in WORDS["countries"].items()]
    (continent,) = {row[2] for row in rows if row[0] in asked(task) or row[1] in asked(task)}
    says(task, continent)


def check_color_of_thing(task: Task) -> None:
    things = WORDS["thing_colors"]
    (thing,) = [thing for thing in things if re.search(rf"\b{thing}\b", asked(task))]
    says(task, things[thing])


def check_young_animal(task: Task) -> None:
    animal = next(w for w in re.findall(r"\w+", asked(task)) if w in WORDS["young"])
    if "Which young" in task.instruction:
        name = task.input.split()[0]
        assert task.output == f"{name} has a {WORDS['young'][animal]}.", task
    else:
        says(task, WORDS["young"][animal])


def check_animal_sound(task: Task) -> None:
    animal_of = {sound: animal for animal, sound in WORDS["sounds"].items()}
    heard = [w for w in re.findall(r"\w+", asked(task)) if w in animal_of]
    if heard:
        says(task, animal_of[heard[0]])
    else:
        (animal,) = [w for w in re.findall(r"\w+", task.input) if w in WORDS["sounds"]]
        says(task, WORDS["sounds"][animal])


def check_job_place(task: Task) -> None:
    (job,) = [job for job in WORDS["jobs"] if re.search(rf"\b{job}\b", asked(task))]
    if "job" in task.instruction:
        assert task.output == job, task
    elif "one word" in task.instruction or "sentence" in task.instruction:
        says(task, WORDS["jobs"][job])
    else:
        assert re.fullmatch(f"at an? {WORDS['jobs'][job]}", task.output), task


def check_rhyme(task: Task) -> None:
    word = re.findall(r"(?:with|for|Does) (\w+)", task.instruction)[0]
    (group,) = [set(group) for group in WORDS["rhymes"] if word in group]
    options = set(re.findall(r"\w+", task.input or task.instruction.split(word, 1)[1]))
    (answer,) = group & options
    says(task, answer)
    assert task.output in (answer, f"The word {word} rhymes with {answer}."), task


def check_kind_of_thing(task: Task) -> None:
    named = [w for w in re.findall(r"\w+", asked(task)) if w in KIND_OF]
    if len(named) == 1:
        says(task, KIND_OF[named[0]])
    else:
        (kind,) = [k for k in WORDS["kinds"] if re.search(rf"\b{k}\b", task.instruction)]
        (word,) = [w for w in named if KIND_OF[w] == kind]
        assert task.output == word, task


# --------------------------------------------------------------------------------- grammar

VERBS = {row["base"]: (row["third"], row["past"]) for row in WORDS["actions"]}
VERBS |= {base: tuple(forms) for base, forms in WORDS["motions"].items()}
BASE_OF = {third: base for base, (third, _) in VERBS.items()}


def check_past_tense(task: Task) -> None:
    past_of = dict(VERBS.values())
    if "gap" in task.instruction:
        assert task.output == past_of[task.input.split()[2].rstrip(".")], task
    elif "sentence" in task.instruction:
        present, past = sentence_in(task), task.output
        if "to the present" in task.instruction or "in the present" in task.instruction:
            present, past = past, present
        verb = present.split()[1].rstrip(".")
        assert past == re.sub(rf"\b{verb}\b", past_of[verb], present), task
    else:
        verb = task.input or re.findall(r"of (\w+)[.?]", task.instruction)[0]
        assert task.output == VERBS[verb][1], task


def check_comparative(task: Task) -> None:
    word = next(w for w in re.findall(r"\w+", asked(task)) if w in WORDS["degrees"])
    comparative, superlative = WORDS["degrees"][word]
    if "and the" in task.instruction:
        assert task.output == f"{comparative}, {superlative}", task
        return
    form = comparative if "comparative" in task.instruction else superlative
    gap = re.search(r"\w+ is [^:]*___.*", asked(task))
    assert task.output == (gap[0].replace("___", form) if gap else form), task


def negative_and_question(sentence: str) -> tuple[str, str]:
    name, verb, rest = sentence.rstrip(".").split(" ", 2)
    if verb == "is":
        return f"{name} is not {rest}.", f"Is {name} {rest}?"
    return f"{name} does not {BASE_OF[verb]} {rest}.", f"Does {name} {BASE_OF[verb]} {rest}?"


def check_negation(task: Task) -> None:
    if task.input.endswith("?"):
        sentence = re.sub(r"^(Does|Is) (\w+)", r"\2", task.input).replace("?", ".")
        word = "is not" if task.input.startswith("Is") else "does not"
        assert task.output == f"No, {sentence.replace(' ', f' {word} ', 1)}", task
    else:
        assert task.output == negative_and_question(sentence_in(task))[0], task


def check_question_form(task: Task) -> None:
    if "the question" in task.instruction:
        assert task.input == negative_and_question(task.output)[1], task
    else:
        assert task.output == negative_and_question(sentence_in(task))[1], task


def check_passive_voice(task: Task) -> None:
    participle_of = {row["past"]: row["participle"] for row in WORDS["actions"]}
    active, passive = sentence_in(task), task.output
    if active.startswith("The "):
        active, passive = passive, active
    name, verb, _, thing = active.rstrip(".").split()
    assert passive == f"The {thing} was {participle_of[verb]} by {name}.", task
    assert ("passive voice" in task.instruction) <= (task.output == passive), task


def check_pronoun(task: Task) -> None:
    name = next(w for w in re.findall(r"\w+", asked(task)) if w in NAMES)
    girl = name in WORDS["girls"]
    if task.input.endswith("___."):
        assert task.output == f"Give it to {'her' if girl else 'him'}.", task
    elif "his or her" in task.instruction:
        assert task.output == task.input.replace("___", "her" if girl else "his"), task
    elif "Which" in task.instruction:
        assert task.output == ("she" if girl else "he"), task
    else:
        assert task.output == sentence_in(task).replace(name, "She" if girl else "He"), task


def check_article(task: Task) -> None:
    named = re.search(r"___ (.+)\.|(?:before|Does) (?!the)(.+?)(?:,| take|\.)", asked(task))
    phrase = (named[1] or named[2]) if named else task.input
    article = "an" if phrase[0] in "aeiou" else "a"
    if "Which" in task.instruction or "take" in task.instruction:
        assert task.output == article, task
    elif "gap" in task.instruction:
        gap = task.input or task.instruction.split(": ")[1]
        assert task.output == gap.replace("___", article), task
    else:
        assert task.output == f"{article} {phrase}", task


# -------------------------------------------------------------- classification, reasoning


def check_sentiment(task: Task) -> None:
    words = set(re.findall(r"\w+", asked(task).lower()))
    good, bad = words & set(WORDS["praise"]), words & set(WORDS["blame"])
    assert bool(good) != bool(bad), task
    styles = {"1 for": ("1", "0"), "yes or no": ("yes", "no")}
    pair = next((p for key, p in styles.items() if key in task.instruction), None)
    says(task, (pair or ("positive", "negative"))[not good])


def check_sentence_type(task: Task) -> None:
    text = task.input or re.split(r"[?.] ", task.instruction)[-1]
    label = "question" if text[-1] == "?" else "command" if text[-1] == "!" else "statement"
    if "yes or no" in task.instruction:
        assert task.output == ("yes" if label == "question" else "no"), task
    else:
        says(task, label)


def check_spam(task: Task) -> None:
    spam = bool(re.search(r"[Ww]in |won |free|prize", asked(task).replace("not spam", "")))
    if "yes or no" in task.instruction:
        assert task.output == ("yes" if spam else "no"), task
    elif "folder" in task.instruction:
        assert task.output == ("spam folder" if spam else "inbox"), task
    else:
        says(task, "is spam" if spam and "sentence" in task.instruction else task.output)
        assert ("not spam" in task.output) != spam, task


def check_text_kind(task: Task) -> None:
    said = [word.rstrip("?.,") for word in task.instruction.split()]
    text = task.input or next(w for w in said if re.search(r"[\d@]", w) or w in KIND_OF | GOODS)
    shapes = {"number": r"\d+", "time": r"\d+:\d\d", "word": r"[a-z]+", "email address": r".+@.+"}
    (kind,) = [kind for kind, shape in shapes.items() if re.fullmatch(shape, text)]
    says(task, kind)


def is_true(statement: str) -> bool:
    """Whether a statement of `true_or_false` holds, by the word lists."""
    if found := re.fullmatch(r"(\w+) is the capital of (\w+)\.", statement):
        return bool(WORDS["countries"][found[2]][0] == found[1])
    if found := re.fullmatch(r"A young (\w+) is called a (\w+)\.", statement):
        return bool(WORDS["young"][found[1]] == found[2])
    if found := re.fullmatch(r"An? (\w+) is an? (\w+)\.", statement):
        return bool(KIND_OF[found[1]] == found[2])
    found = re.fullmatch(r"(\w+) is in ([\w ]+)\.", statement)
    assert found, statement
    return bool(WORDS["countries"][found[1]][1] == found[2])


def check_true_or_false(task: Task) -> None:
    true = is_true(sentence_in(task))
    says(task, ("yes" if true else "no") if "yes" in task.instruction else str(true).lower())


def check_number_statement(task: Task) -> None:
    found = re.search(r"\d.*\d", asked(task).replace("\n", " "))
    assert found
    code = found[0].replace("is greater than", ">").replace("is less than", "<")
    true = eval(code.replace(" = ", " == "))
    says(task, ("yes" if true else "no") if "yes" in task.instruction else str(true).lower())


def check_yes_or_no(task: Task) -> None:
    words = re.findall(r"\w+", task.input) + re.findall(r"\w+", task.instruction)
    word = next(w for w in words if w in KIND_OF)
    kind = next(w for w in words if w in WORDS["kinds"])
    yes = KIND_OF[word] == kind
    if "sentence" in task.instruction:
        assert f"{word} {'is' if yes else 'is not'} a" in task.output, task
        assert task.output.endswith(f" {kind}."), task
    else:
        assert task.output == ("yes" if yes else "no"), task


def check_who_is_older(task: Task) -> None:
    facts = re.findall(r"(\w+) is (\w+) than (\w+)\.", asked(task))
    up = {"older", "taller"}
    above = {(a, b) if relation in up else (b, a) for a, relation, b in facts}
    people = {name for pair in above for name in pair}
    (top,) = people - {low for _, low in above}
    (bottom,) = people - {high for high, _ in above}
    ask = re.findall(r"[Ww]h(?:o|ich of the two) is (?:the )?(\w+)", task.instruction)[0]
    high = ask in up | {"oldest", "tallest"}
    says(task, top if high else bottom)


# ------------------------------------------------------------------ extraction, formatting


def event_of(task: Task) -> dict[str, str]:
    pattern = (
        r"(?P<who>\w+) (?:bought|sold) an? (?P<color>\w+) (?P<what>\w+) in (?P<where>\w+)"
        r" for (?P<price>\d+) dollars"
    )
    found = re.search(pattern, asked(task))
    assert found
    return found.groupdict()


def check_sentence_facts(task: Task) -> None:
    event = event_of(task)
    key = {"Where": "where", "where": "where", "city": "where", "Who": "who", "color": "color"}
    fields = [field for word, field in key.items() if word in task.instruction]
    says(task, event[fields[0] if fields else "what"])


def check_find_price(task: Task) -> None:
    price = event_of(task)["price"]
    if "dollar sign" in task.instruction:
        assert task.output == f"${price}", task
    elif "in dollars" in task.instruction:
        assert task.output == f"{price} dollars", task
    else:
        says(task, price)


def check_record_field(task: Task) -> None:
    if task.input.startswith("{"):
        record = {key: str(value) for key, value in json.loads(task.input).items()}
    else:
        record = dict(re.findall(r"(name|age|city|job)(?: =|:) (\w+)", asked(task)))
    (field,) = {"name", "age", "city", "job"} & set(
        re.findall(r"\w+", task.instruction.split(":")[0])
    )
    says(task, record[field])


def markdown_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def check_table_lookup(task: Task) -> None:
    header, _, *body = markdown_rows(task.input)
    rows = [dict(zip(header, row, strict=True)) for row in body]
    if task.instruction.startswith("List"):
        assert task.output == ", ".join(row["name"] for row in rows), task
        return
    cells = [value for row in rows for value in row.values()]
    (known,) = [word for word in re.findall(r"\w+", task.instruction) if word in cells]
    (row,) = [row for row in rows if known in row.values()]
    wanted = {"city does": "city", "where": "city", "the city": "city", "old": "age", "age": "age"}
    keys = [key for phrase, key in wanted.items() if phrase in task.instruction]
    says(task, row[keys[0] if keys else "name"])


def table_in(text: str) -> dict[str, str]:
    """A mapping read from JSON, CSV, `key: value` lines or a Markdown table."""
    if text.startswith("{"):
        return {key: str(value) for key, value in json.loads(text).items()}
    if text.startswith("|"):
        rows = markdown_rows(text)
        assert rows[0] == ["item", "price"]
        assert rows[1] == ["---", "---"]
        return dict(rows[2:])
    if ": " in text:
        return dict(line.split(": ") for line in text.splitlines())
    rows = list(csv.reader(io.StringIO(text)))
    if rows[0] == ["item", "price"]:
        return dict(rows[1:])
    return dict(zip(rows[0], rows[1], strict=True))


def check_record_formats(task: Task) -> None:
    record = table_in(task.output)
    if task.input:
        assert record == table_in(task.input), task
    else:
        assert all(value in task.instruction for value in record.values()), task
        first, second = record
        assert first == "name", task
        assert second in task.instruction, task
    if task.output.startswith("{"):
        values = json.loads(task.output).values()
        assert all(isinstance(v, int) == str(v).isdigit() for v in values), task


def check_table_formats(task: Task) -> None:
    assert table_in(task.output) == table_in(task.input), task
    starts = {"CSV": "item,price\n", "Markdown": "| item", "JSON": "{"}
    target = re.findall(r"CSV|Markdown|JSON", task.instruction)[-1]
    assert task.output.startswith(starts[target]), task


def check_json_list(task: Task) -> None:
    def elements(text: str) -> list[str]:
        return re.findall(r"\w+", text)

    if "first element" in task.instruction:
        array = json.loads(re.findall(r"\[.*\]", task.instruction)[0])
        assert task.output == str(array[0]), task
        return
    given = task.input or task.instruction.split(" a JSON")[0].split(" ", 1)[1]
    given = re.sub(r" (as|into)$", "", given)
    assert elements(task.output) == elements(given), task
    if task.output.startswith("["):
        array = json.loads(task.output)
        assert all(isinstance(v, int) == str(v).isdigit() for v in array), task


# ------------------------------------------------------------------------- code and writing


def check_python_expression(task: Task) -> None:
    expression = re.findall(r"\d+ [-+*] \d+", asked(task))[0]
    says(task, eval(expression))


def check_python_list(task: Task) -> None:
    setup = re.findall(r"items = \[.*?\]", asked(task))[0]
    access = re.findall(r"items\[-?\d\]|len\(items\)", asked(task))[0]
    says(task, run_python(f"{setup}\nprint({access})"))


def check_python_loop(task: Task) -> None:
    head = re.findall(r"for x in .*:", asked(task))[0]
    lines = run_python(f"{head}\n    print(x)").split("\n")
    if "How many" in task.instruction:
        assert task.output == str(len(lines)), task
    else:
        separator = ", " if "commas" in task.instruction else "\n"
        assert task.output == separator.join(lines), task


def check_python_condition(task: Task) -> None:
    code = task.input or task.instruction.split("? ", 1)[1]
    if "True or False" in task.instruction:
        condition = re.findall(r"if (.*):", code)[0]
        assert task.output == run_python(f"{code.splitlines()[0]}\nprint({condition})"), task
    else:
        assert task.output == run_python(code).splitlines()[-1], task


def check_python_slice(task: Task) -> None:
    if task.input:
        says(task, run_python(task.input))
    else:
        word = task.instruction.split()[-1].rstrip("?")
        part = re.findall(r"\[.*\]", task.instruction)[0]
        assert task.output == run_python(f"print({word!r}{part})"), task


def check_python_writing(task: Task) -> None:
    if "prints" in task.instruction:
        word = task.input or task.instruction.split()[-1].rstrip(".")
        assert run_python(task.output) == word, task
    elif "list" in task.instruction:
        assert run_python(f"{task.output}\nprint(', '.join(items))") == task.input, task
    else:
        (n,) = numbers(task.instruction)
        name = re.findall(r"(?:sets|variable) (\w+)", task.instruction)[0]
        start = 5 if "adds" in task.instruction else 0
        code = f"{name} = {start}\n{task.output}\nprint({name})"
        assert run_python(code) == str(start + n), task


def check_greeting(task: Task) -> None:
    given = set(re.findall(r"\w+", asked(task)))
    names = [name for name in NAMES if name in given]
    goods = [thing for thing in WORDS["goods"] if thing in given]
    assert names, task
    assert all(word in task.output for word in names + goods), task
    grounded(task, "")


def check_email_address(task: Task) -> None:
    site = re.findall(r"\w+\.example", asked(task))[0]
    name = next((name for name in NAMES if name.lower() in asked(task).lower()), "")
    if "Whose" in task.instruction:
        assert task.output == name, task
    elif "the site" in task.instruction:
        assert task.output == site, task
    else:
        assert f"{name.lower()}@{site}" in task.output, task


def check_make_sentence(task: Task) -> None:
    words = re.findall(r"\w+", task.input) + re.findall(r"\w+", task.instruction)
    name = next(w for w in words if w in NAMES)
    action = next(row for w in words for row in WORDS["actions"] if row["base"] == w)
    thing = next(w for w in words if w in action["objects"])
    tense = "past" if "past" in task.instruction else "third"
    assert task.output == f"{name} {action[tense]} the {thing}.", task


# ----------------------------------------------------------------------------------- tests

CHECKS: dict[str, Callable[[Task], None]] = {
    name.removeprefix("check_"): value
    for name, value in list(globals().items())
    if name.startswith("check_")
}
ALL_FAMILIES = [family.name for family in families()]


def test_every_family_has_an_oracle_and_every_oracle_a_family() -> None:
    assert sorted(CHECKS) == ALL_FAMILIES


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_answers_agree_with_an_independent_oracle(name: str) -> None:
    for task in tasks_of(name):
        CHECKS[name](task)


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_tasks_are_well_formed(name: str) -> None:
    family = next(family for family in families() if family.name == name)
    for task in tasks_of(name):
        assert (task.family, task.category) == (family.name, family.category)
        for text in (task.instruction, task.input, task.output):
            assert text == text.strip(), task
            assert "  " not in text.replace("\n    ", "\n"), task
            if family.category not in ("code", "formatting") and "JSON" not in task.instruction:
                assert not set("{}") & set(text), task
        assert 3 <= len(task.instruction.split()) <= 40, task
        assert task.instruction[0].isupper(), task
        assert task.output, task
        assert task.output not in (task.input, task.instruction), task
        assert task.output.count(" ") < 30, task
        everything = f"{task.instruction} {task.input} {task.output}"
        if name != "article":
            wrong = r"(?<!letter )(?<!List )(?<!list )\b[Aa] [aeiou](?!nd )|\b[Aa]n [^aeiou]"
            assert not re.search(wrong, everything), task
        assert not re.search(r"\b1 (dollars|days|minutes|items|words)", everything), task


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_a_family_gives_many_different_tasks(name: str) -> None:
    rng = Random(11)
    pairs = {(task.instruction, task.input) for task in (draw(rng, name) for _ in range(2_000))}
    assert len(pairs) >= 300


def test_equal_seeds_give_equal_tasks() -> None:
    one, two = Random(3), Random(3)
    assert [any_task(one) for _ in range(500)] == [any_task(two) for _ in range(500)]
    assert one.getstate() == two.getstate()


def test_the_answer_is_a_function_of_instruction_and_input() -> None:
    rng = Random(5)
    answers: dict[tuple[str, str], str] = {}
    for i in range(20_000):
        task = any_task(rng, held_out=i % 5 == 0)
        known = answers.setdefault((task.instruction, task.input), task.output)
        assert known == task.output, task


def test_held_out_wordings_are_never_training_wordings() -> None:
    rng = Random(13)
    training = {task.instruction for task in (any_task(rng) for _ in range(10_000))}
    for _ in range(5_000):
        task = any_task(rng, held_out=True)
        assert "/held-out-" in task.form
        assert task.instruction not in training, task


def test_the_catalog_is_as_broad_as_promised() -> None:
    forms = [form for family in families() for form in family.forms]
    assert len(families()) >= 44
    assert len({family.category for family in families()}) >= 10
    assert 0.40 <= sum(bool(form.input) for form in forms) / len(forms) <= 0.50
    for family in families():
        assert 4 <= len(family.forms) <= 8, family.name
        assert 1 <= len(family.held_out) <= 2, family.name


def test_an_unknown_family_suggests_the_closest() -> None:
    assert family_names(["plural", "antonym", "plural"]) == ("antonym", "plural")
    with pytest.raises(UsageError, match='no family "plurals", did you mean "plural"'):
        family_names(["plurals"])
