"""Tokens of a set of examples, as the student's tokenizer will count them.

Which tokenizer that is, the recipe says; without one nothing is counted. How training cuts what is
too long is the business of `alpaca_cli.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Tokens, share
from alpaca_cli.core.template import load_template
from alpaca_cli.data.measures import FIELDS, distribution
from alpaca_cli.model.token_counts import count_tokens


def tokenizer_file(recipe: Recipe) -> Path | None:
    """The tokenizer.json that the recipe names, or that lies in its pretrained model's folder.

    Raises:
        DataError: stats.tokenizer names something else.
    """
    named = recipe.stats.tokenizer
    if named is None:
        model = recipe.train.model
        path = Path(model) / "tokenizer.json" if isinstance(model, str) else None
        return path if path is not None and path.is_file() else None
    path = Path(named)
    if path.is_dir():
        path /= "tokenizer.json"
    if not path.is_file():
        raise DataError(f"stats.tokenizer: {path}: no such file")
    return path


def tokens_of(
    examples: Sequence[Example], recipe: Recipe, tokenizer: Path, progress: Progress
) -> tuple[dict[str, list[int]], Tokens | None]:
    """Tokens of each field, and of whole training rows: the prompt, the answer, and one for EOS.

    With the tokenizer's own chat template only the three texts are counted.
    """
    template = load_template(recipe.train.template)

    def text(example: Example) -> str:
        if template.chat_template:
            return f"{example.instruction}\n{example.input}\n{example.output}"
        return template.prompt(example.instruction, example.input) + example.output

    with progress.task("counting tokens", total=len(FIELDS) + 1) as task:
        fields = {}
        for name in FIELDS:
            fields[name] = count_tokens(tokenizer, [getattr(one, name) for one in examples])
            task.advance()
        rows = [count + 1 for count in count_tokens(tokenizer, list(map(text, examples)))]
        task.advance()
    found = distribution(rows)
    limit = recipe.train.max_length
    over = sum(count > limit for count in rows)
    if found is None:
        return fields, None
    return fields, Tokens(str(tokenizer), found, limit, over, share(over, len(rows)))
