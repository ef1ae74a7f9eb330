"""How instructions begin: the opening verb and its object, by rule.

The figure that papers on instruction data show (self-instruct, figure 2) takes verb and object
from a dependency parser. These rules need no model and are right for imperatives: the verb is the
first word of a clause that is in a list of verbs; its object is the last noun-like word before a
preposition or another boundary. They know English; of Chinese, where imperatives begin with the
verb, too, the first two letters are taken as it. Reports say "by rule".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VERBS = _words(
    """
    abbreviate accept act adapt add adjust advise alphabetise alphabetize alter amend analyse
    analyze annotate answer append apply argue arrange articulate ask assemble assess assign
    assist assume attach autocomplete automate balance begin brainstorm break bring build
    calculate capitalise capitalize caption categorise categorize caution change characterise
    characterize check choose cite clarify classify clean code collect colorize combine come
    comment communicate compare compile complete compose compress compute concatenate conclude
    condense conduct configure conjugate connect consider construct continue contrast convert
    convince copy correct count craft create critique curate cut debate debug decide declare
    decode decompose deduce deduplicate define delete deliver demonstrate derive describe design
    detail detect determine develop devise diagnose diagram differentiate discover discuss
    display distinguish divide document double draft draw edit elaborate eliminate emulate
    encode encrypt end enhance enlist ensure enumerate establish estimate evaluate examine
    exchange execute expand explain explore express extend extract factor fetch fill filter find
    finish fit fix flag flip fold follow forecast form format formulate generate get give go
    grade group guess help highlight identify illustrate imagine implement improve include
    incorporate increase indicate infer inform initialise initialize input insert inspect
    integrate interpret introduce invent invert investigate join judge justify label learn let
    link list locate look make manipulate map mark match maximise maximize measure mention merge
    minimise minimize model modify multiply name narrate negate normalise normalize note notify
    number observe offer open optimise optimize order organise organize outline output overwrite
    paraphrase parse pass perform persuade pick pitch place plan play plot point polish populate
    pose post predict prepare present print prioritise prioritize process produce program
    promote prompt pronounce proofread propose prove provide punctuate put query quote raise
    rank rate re-write read rearrange recall recast recite recommend reconstruct record recreate
    redact reduce refactor refer reflect reformat reformulate reimagine remove rename render
    reorder reorganise reorganize repeat rephrase replace reply report represent request
    research resolve respond restate restructure retell retrieve return reverse review revise
    reword rewrite rhyme role-play rotate round sample save say scale schedule score search
    select send separate sequence set share shorten show shuffle simplify simulate sketch skip
    solve sort specify speculate spell split spot square standardise standardize start state
    store structure study submit substitute subtract suggest sum summarise summarize supply
    support suppose swap synthesise synthesize tabulate tag take talk teach tell test think
    trace track train transcribe transfer transform translate transpose traverse trim turn
    typecast underline understand update use utilise utilize validate verify view vote weigh
    work wrap write
    """
)
_QUESTIONS = _words(
    """
    what how why which who whom whose when where
    """
)
_AUXILIARIES = _words(
    """
    is are was were do does did can could would should will may might has have had
    """
)
_POLITE = _words(
    """
    please kindly now then next first firstly finally also briefly carefully simply just and can
    could would you your i we need want have to task is job help me like
    """
)
_SKIPPED = _words(
    """
    a an the this that these those my your his her its our their me us him them it some any each
    every all both one two three four five six seven eight nine ten up down out first
    second third last
    """
)
_BOUNDARY = _words(
    """
    of for in on at by with from about into onto to as than like under over between among after
    before during without within through against per via and or but nor so if when while whether
    where why how what which who whose because since until unless is are was were be been being
    has have had can could should would will may might must do does did not using given based
    containing describing explaining showing including consisting called named titled written
    taken used made following according such i you we he she they
    """
)
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]")
_CHINESE = re.compile(r"\s*(?:请你?|帮我|帮忙)*([\u3400-\u9fff]{2})[^\u3040-\u30ff\uac00-\ud7a3]*")


def opening(instruction: str) -> tuple[str, str | None] | None:
    """The opening verb and its object (None when there is none); None when no rule applies.

    A question gives its question word followed by "…?" as the verb.
    """
    if chinese := _CHINESE.fullmatch(instruction):
        return chinese[1], None
    tokens = _WORD.findall(instruction.lower()[:600])
    if tokens and tokens[0] in _AUXILIARIES and instruction.rstrip().endswith("?"):
        return f"{tokens[0]} …?", None
    start = True  # at the beginning of a clause?
    for position, token in enumerate(tokens):
        if start and token in _VERBS:
            return token, _object(tokens[position + 1 :])
        if start and token in _QUESTIONS:
            return f"{token} …?", None
        start = not token[0].isalnum() or (start and token in _POLITE)
    return None


def _object(tokens: Iterable[str]) -> str | None:
    """The head of the noun phrase that follows a verb."""
    head = None
    for token in tokens:
        if token[0].isalnum():
            # "the following sentence", "that list": before the noun; after it they end it.
            before = token in _SKIPPED or token in ("following", "given")
            if head is None and before:
                continue
            if before or token in _BOUNDARY:
                break
            if not token.isdigit():
                head = token
        elif head is not None or token not in "\"'“‘(":
            break
    return head


def openings(instructions: Iterable[str], top: int, objects: int = 4) -> dict[str, Any]:
    """The most frequent opening verbs, each with its most frequent objects.

    Returns:
        `recognised` instructions of `total`, and `verbs`: a list of verb, count and `objects`
        (pairs of word and count).
    """
    verbs: Counter[str] = Counter()
    pairs: dict[str, Counter[str]] = {}
    total = 0
    for instruction in instructions:
        total += 1
        found = opening(instruction)
        if found is not None:
            verb, noun = found
            verbs[verb] += 1
            if noun is not None:
                pairs.setdefault(verb, Counter())[noun] += 1
    listed = [
        {
            "verb": verb,
            "count": count,
            "objects": [list(pair) for pair in pairs.get(verb, Counter()).most_common(objects)],
        }
        for verb, count in verbs.most_common(top)
    ]
    return {"recognised": verbs.total(), "total": total, "verbs": listed}
