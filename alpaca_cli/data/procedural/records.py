"""Values for finding facts in sentences and records and for changing a record's format.

Formats are written by the standard `json` module and by hand for CSV, whose values here never
need quotes. Knows no phrasings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, with_article


def sentence_facts(rng: Random) -> dict[str, str]:
    """Who bought or sold what, where and for how much."""
    name, city = rng.choice(lexicon().names), rng.choice(lexicon().cities)
    thing, color = rng.choice(lexicon().goods), rng.choice(lexicon().colors)
    price, verb = rng.randint(2, 20), rng.choice((("buy", "bought"), ("sell", "sold")))
    event = f"{name} {verb[1]} {with_article(color)} {thing}"
    return {
        "sentence": f"{event} in {city} for {price} dollars.",
        "name": name,
        "city": city,
        "thing": thing,
        "color": color,
        "price": str(price),
        "verb": verb[0],
        "past": verb[1],
    }


def record(rng: Random) -> dict[str, str]:
    """A person's record in several notations, and one of its fields."""
    values = _person(rng)
    fields = list(values)
    rng.shuffle(fields)
    field = rng.choice(fields)
    return {
        "lines": "\n".join(f"{key}: {values[key]}" for key in fields),
        "inline": "; ".join(f"{key} = {values[key]}" for key in fields),
        "json": json.dumps({key: values[key] for key in fields}),
        "field": field,
        "answer": str(values[field]),
    }


def record_formats(rng: Random) -> dict[str, str]:
    """A record of two fields as lines, JSON, CSV and a sentence."""
    values = _person(rng)
    key = rng.choice(("age", "city", "job"))
    two = {"name": values["name"], key: values[key]}
    text = {
        "age": f"{values['name']} is {values['age']} years old.",
        "city": f"{values['name']} lives in {values['city']}.",
        "job": f"{values['name']} works as {with_article(str(values['job']))}.",
    }
    return {
        "lines": "\n".join(f"{key}: {value}" for key, value in two.items()),
        "json": json.dumps(two),
        "csv": f"name,{key}\n{values['name']},{values[key]}",
        "sentence": text[key],
        "name": str(values["name"]),
        "key": key,
        "value": str(values[key]),
    }


def table(rng: Random) -> dict[str, str]:
    """Three persons with their cities, and with their ages, as Markdown; one is asked about."""
    names = rng.sample(lexicon().names, 3)
    cities = rng.sample(lexicon().cities, 3)
    ages = rng.sample(range(20, 70), 3)
    index = rng.randrange(3)
    return {
        "cities": _markdown([("name", "city"), *zip(names, cities, strict=True)]),
        "ages": _markdown([("name", "age"), *zip(names, map(str, ages), strict=True)]),
        "name": names[index],
        "city": cities[index],
        "age": str(ages[index]),
        "names": ", ".join(names),
    }


def table_formats(rng: Random) -> dict[str, str]:
    """Two things with prices as CSV, as a Markdown table and as JSON."""
    things = rng.sample(lexicon().goods, 2)
    prices = [(thing, rng.randint(1, 9)) for thing in things]
    rows = [(thing, str(price)) for thing, price in prices]
    return {
        "csv": "\n".join(["item,price", *(f"{thing},{price}" for thing, price in rows)]),
        "markdown": _markdown([("item", "price"), *rows]),
        "json": json.dumps(dict(prices)),
        "lines": "\n".join(f"{thing}: {price}" for thing, price in rows),
    }


def json_list(rng: Random) -> dict[str, str]:
    """Three things or numbers as words and as a JSON array."""
    pool: Sequence[str | int] = lexicon().items if rng.randrange(2) else range(1, 10)
    things = rng.sample(pool, 3)
    return {
        "list": ", ".join(map(str, things)),
        "lines": "\n".join(map(str, things)),
        "json": json.dumps(things),
        "first": str(things[0]),
    }


def _markdown(rows: list[tuple[str, str]]) -> str:
    header, *body = (f"| {left} | {right} |" for left, right in rows)
    return "\n".join([header, "| --- | --- |", *body])


def _person(rng: Random) -> dict[str, str | int]:
    return {
        "name": rng.choice(lexicon().names),
        "age": rng.randint(20, 69),
        "city": rng.choice(lexicon().cities),
        "job": rng.choice(list(lexicon().jobs)),
    }
