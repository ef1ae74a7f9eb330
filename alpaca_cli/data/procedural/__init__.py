"""Tasks whose answers are computed: what the embedded teacher knows.

To add a family, write a block in `families.yaml` and, where no existing generator gives what
it needs, one small function `(Random) -> dict[str, str]` in a generator module
(`arithmetic`, `numerals`, `lists`, `editing`, `dates`, `facts`, `grammar`, `judging`,
`records`, `snippets`, `letters`). The YAML says what is asked and how the answer is worded,
the function computes the values, `lexicon.yaml` has the words. Nothing here knows how a
request to a teacher looks, or how tasks are stored.
"""

from alpaca_cli.data.procedural.catalog import Family, Form, Task, draw, families, family_names

__all__ = ["Family", "Form", "Task", "draw", "families", "family_names"]
