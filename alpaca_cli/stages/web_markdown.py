"""A model's Markdown made harmless before a page renders it: no HTML, no images, no diagrams.

HTML that a model writes is shown as text, which is also what a person who asked for HTML wants to
see. gradio's sanitiser takes scripts out of it, but leaves images and backgrounds, which tell
another machine who reads the answer, and a diagram brings them back through its labels. Should a
construct be missed here, the page's Content-Security-Policy (`alpaca_cli.stages.web_guard`) still
stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})(.*)")
# Backticks, text, the same number of backticks; never beyond a paragraph.
CODE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n[ \t]*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
# Entities are text to Markdown, whatever stands before them; a backslash could be escaped itself.
TAG = re.compile(r"<(?=[A-Za-z/!?])")
IMAGE = re.compile(r"!(?=\[)")


def harmless(text: str) -> str:
    """The same Markdown with HTML and images as text; what stands in code stays as it is."""
    parts = []
    for is_code, part in _blocks(text):
        parts.append(part if is_code else _prose(part))
    return "\n".join(parts)


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Fenced code blocks, and what is between them, in order."""
    prose: list[str] = []
    code: list[str] = []
    fence = ""
    for line in text.split("\n"):
        found = FENCE.fullmatch(line)
        if fence:
            code.append(line)
            if found and found[1].startswith(fence) and not found[2].strip():
                yield True, "\n".join(code)
                code, fence = [], ""
        elif found and not (found[1][0] == "`" and "`" in found[2]):
            if prose:
                yield False, "\n".join(prose)
            fence, prose = found[1], []
            # A language that the page would draw is shown as what it is.
            drawn = found[2].strip().lower().startswith("mermaid")
            code = [line[: found.end(1)] if drawn else line]
        else:
            prose.append(line)
    if code:
        yield True, "\n".join(code)
    if prose:
        yield False, "\n".join(prose)


def _prose(text: str) -> str:
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [_escaped(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return IMAGE.sub("&#33;", TAG.sub("&lt;", text))
