"""HTML that escapes by construction, and numbers as people read them.

`tag` escapes every text it is given; only what `tag`, `join` and `script_json` made is taken as
it is. The texts of the data are model output, so no other way leads into the page. What the page
says is not known here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from html import escape
from typing import Any

CUT = 200  # characters of any one text of the data
NONE = "–"

# Not allowed in HTML or in XML, or able to reorder the text around them; one in a JSON file must
# not break the page, or the encoder that writes it.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    "\ufffe\uffff]"
)
_VOID = {"meta", "br"}
# JSON that cannot end a script element, open a comment, or end a line of JavaScript.
_IN_SCRIPT = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


class Html(str):
    """Markup that is safe to put into the page as it is."""

    __slots__ = ()


def clean(text: str, cut: int = CUT) -> str:
    """A text of the data on one line, without control characters, not longer than `cut`."""
    # Many times as long as shown is looked at: the rest is only blanks, or is cut anyway.
    found = _UNWANTED.sub("\ufffd", " ".join(text[: 10 * cut].split()))
    return found if len(found) <= cut else f"{found[: cut - 1]}…"


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """An element; texts among its children are escaped, `Html` is not.

    Attributes that are None or False are left out, those that are True have no value. A trailing
    underscore of their names is dropped and others are hyphens: `class_`, `aria_label`.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        parts.append(word if value is True else f'{word}="{escape(_attribute(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Pieces one after the other; texts among them are escaped, `Html` is not."""
    return Html(
        "".join(part if isinstance(part, Html) else escape(_printable(part)) for part in parts)
    )


def script_json(value: Any, **attributes: str) -> Html:
    """A block of data for the page's script, which no text inside can end."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_IN_SCRIPT)
    opening = tag("script", type="application/json", **attributes)
    return Html(opening.replace("></script>", f">{_printable(data)}</script>"))


def _attribute(value: str | float) -> str:
    return _printable(value) if isinstance(value, str) else f"{value:.6g}"


def _printable(text: str) -> str:
    return _UNWANTED.sub("\ufffd", text)


def percent(share: float) -> str:
    """`12.3 %`, kept on one line; what is not nothing never reads as nothing, nor a part as all."""
    if 0 < share < 0.0005:
        return "<\u00a00.1\u00a0%"
    if 0.9995 <= share < 1:
        return ">\u00a099.9\u00a0%"
    return f"{100 * share:.1f}\u00a0%"


def number(value: float | None) -> str:
    """`1,234`, `56.7`, `0.1234`: whole numbers in full, others to four digits."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == int(value):
        return f"{int(value):,}".replace("-", "−")
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def signed(*values: float) -> list[str]:
    """Differences with their signs, to three digits of the largest of them."""
    largest = max(map(abs, values))
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    return [f"{value:+,.{min(decimals, 9)}f}".replace("-", "−") for value in values]


def dollars(value: float | None) -> str:
    """`$1,234.50`; below a cent two digits that are not zero."""
    if value is None:
        return NONE
    decimals = 1 - math.floor(math.log10(value)) if 0 < value < 0.01 else 2
    return f"${value:,.{decimals}f}"


def probability(value: float | None) -> str:
    """A p-value, to three digits."""
    if value is None:
        return NONE
    return "<\u00a00.001" if value < 0.001 else f"{value:.3f}"
