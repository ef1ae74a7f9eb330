"""Judges with a known taste, as answers of `tests.servers.TeacherServer`.

    with TeacherServer(answer=judge(longer)) as server: …

A judge reads the question as a careful reader would: text between the right marks, nothing else.
A taste gets what was shown and returns `1`, `2`, `tie`, else the whole reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from tests.servers import Asked


@dataclass(frozen=True)
class Seen:
    """What a judge was shown.

    Attributes:
        outside: all that it reads outside of the marks, its instructions among it.
        code: of the marks.
    """

    request: str
    input: str
    first: str
    second: str
    outside: str
    code: str

    def chance(self, salt: str) -> float:
        """A number from 0 to 1 that only depends on what was shown, and in which order."""
        told = json.dumps([salt, self.request, self.input, self.first, self.second])
        return int.from_bytes(sha256(told.encode()).digest()[:4]) / 2**32


Taste = Callable[[Seen], str]


def seen(asked: Asked) -> Seen:
    """The question in a request, by the code that its first line names."""
    user = str(asked.body["messages"][-1]["content"])
    head = re.match(r"The code of the marks is ([0-9a-f]{16})\.\n\n", user)
    assert head is not None, user
    code = head[1]
    block = re.compile(rf"\[{code} BEGIN ([A-Z0-9 ]+)\]\n(.*?)\n\[{code} END \1\]", re.DOTALL)
    found = {match[1]: match[2] for match in block.finditer(user)}
    system = str(asked.body["messages"][0]["content"])
    return Seen(
        found["REQUEST"],
        found.get("INPUT OF THE REQUEST", ""),
        found["ANSWER 1"],
        found["ANSWER 2"],
        f"{system}\n{block.sub('', user)}",
        code,
    )


def judge(taste: Taste) -> Callable[[Asked], str]:
    """The replies of a judge with this taste."""

    def answer(asked: Asked) -> str:
        better = taste(seen(asked))
        if better in ("1", "2", "tie"):
            return json.dumps({"reason": f"The test prefers {better}.", "better": better})
        return better

    return answer


def longer(shown: Seen) -> str:
    if len(shown.first) == len(shown.second):
        return "tie"
    return "1" if len(shown.first) > len(shown.second) else "2"


def first(shown: Seen) -> str:
    return "1"


def marked(word: str) -> Taste:
    """Prefers the answer in which a word occurs; a tie when both or neither have it."""

    def taste(shown: Seen) -> str:
        one, two = word in shown.first, word in shown.second
        return "tie" if one == two else "1" if one else "2"

    return taste


def leaning(share: float, otherwise: Taste) -> Taste:
    """Says `1` in this share of questions, whatever they are, and else follows another taste."""

    def taste(shown: Seen) -> str:
        return "1" if shown.chance("a") < share else otherwise(shown)

    return taste
