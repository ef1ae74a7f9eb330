"""The opening verb and its object in English, by rule.

The verb is the first word of a clause that is in a list of verbs, or what stands behind "you
should" and the like. Its object is the last word of the noun phrase that follows: the phrase ends
at a function word, a sign, or a participle that begins something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VERBS = _words(
    """
    abbreviate accept act adapt add adjust advise allocate alphabetise alphabetize alter amend
    analyse analyze annotate announce answer anticipate apologize append apply approximate argue
    arrange articulate ask assemble assert assess assign assist assume attach attempt
    autocomplete automate avoid bake balance begin bind blend bold boost brainstorm break bring
    build calculate calibrate calm cancel capitalise capitalize caption cast categorise
    categorize caution challenge change characterise characterize check choose cite clarify
    classify clean clear cluster code coin collate collect colorize comb combine come comment
    communicate compare compile complete compliment compose compress compute concatenate
    conceive conceptualize conclude condense conduct configure confirm congratulate conjugate
    connect consider console consolidate construct consult contact contextualize continue
    contrast contribute convert convince cook copy correct count craft create criticize critique
    curate customize cut debate debug decide declare decode decompose deconstruct decrypt deduce
    deduplicate defend define delegate delete deliver demonstrate depict deploy derive describe
    design detail detect determine develop devise diagnose diagram dictate differentiate
    discover discuss display disprove distinguish diversify divide document double download
    draft draw dream edit educate elaborate elicit eliminate email embed empathize emphasize
    empower emulate enable encode encourage encrypt end enhance enlist enrich ensure enter
    entertain enumerate equate establish estimate evaluate examine exchange execute exemplify
    expand explain explore express extend extract extrapolate fabricate facilitate factor
    factorize familiarize fetch fill filter finalize find finish fit fix flag flatten flip fold
    follow forecast forge form formalize format formulate gather gauge generalize generate get
    give go grade graph greet group guess guide help highlight humanize hyphenate hypothesize
    identify illustrate imagine imitate impersonate implement import improve include incorporate
    increase indicate infer inform initialise initialize input insert inspect install instruct
    integrate interpolate interpret interview introduce invent invert investigate invite iterate
    join judge justify keep label lead learn lemmatize let link list localize locate look lower
    lowercase make manage manipulate map mark match maximise maximize measure mention merge
    mimic minimise minimize model modify monitor move multiply mutate name narrate negate
    negotiate nominate normalise normalize note notify number observe obtain offer open optimise
    optimize order organise organize outline output oversee overwrite pair parametrize
    paraphrase parse pass perform personalize personify persuade pick piece pinpoint pitch place
    plan play plot plug point polish populate pose post practice praise predict prepare present
    pretend print prioritise prioritize probe process produce program promise promote prompt
    pronounce proofread propose protect prove provide pull punctuate push put quantify query
    question quiz quote raise randomize rank rate re-arrange re-order re-phrase re-state re-word
    re-write read rearrange rebut recall recap recast recite recognise recognize recombine
    recommend reconcile reconstruct record recount recreate redact redefine redesign redo reduce
    refactor refer reflect reformat reformulate refute register regroup rehearse reimagine
    reimplement reiterate remove rename render reorder reorganise reorganize repair repeat
    rephrase replace replicate reply report represent request research reserve reset reshape
    resize resolve respond restate restore restructure retell retrieve return revamp reveal
    reverse review revise rewind reword rework rewrite rhyme riff role-play roleplay romanize
    rotate round run sample sanitize satirize save say scale scan scatter schedule score scrape
    search seek segment select sell send separate sequence serialize set share shift shorten
    show shuffle simplify simulate sing situate sketch skim skip slice solve sort specify
    speculate spell spin split spot square standardise standardize start state stem stop store
    streamline strengthen strip structure study stylize sub-divide submit substitute subtract
    suggest sum summarise summarize supplement supply support suppose swap switch symbolize
    synthesise synthesize systematize tabulate tackle tag tailor take talk teach tell test thank
    theorize think tokenize trace track train transcribe transfer transform translate
    transliterate transmit transpose traverse trigger trim triple truncate try tune turn tweak
    type typecast uncover underline understand unify unpack unscramble update upgrade upload
    uppercase urge use utilise utilize validate vary verify view visualise visualize vote walk
    warn weigh wish work wrap write
    """
)
_QUESTIONS = _words("what how why which who whom whose when where what's who's")
_AUXILIARIES = _words(
    "is are was were do does did can could would should will may might has have had isn't aren't"
)
_SUBJECTS = _words(
    """
    i you we he she it they there this that these those the a an my your his her its our their any
    some anyone someone everyone people all one
    """
)
# May stand between the beginning of a clause and its verb.
_POLITE = _words(
    """
    please kindly now then next first firstly secondly finally lastly also briefly carefully simply
    just and or so can could would should must will you your i we need want have to task is job
    goal role help me us like let let's try quickly be able required asked are do not don't
    """
)
_TASKS = _words("task job goal role mission objective assignment")
_MODALS = _words("need should must could will would might")
_LABELS = _words("answer input output note review name question read")  # "Answer: …"
_PARTICLES = _words("up down out off away back in")
# In front of a noun, and never one.
_SKIPPED = _words(
    """
    a an the this that these those my your his her its our their it's some any each every all both
    me us him them one two three four five six seven eight nine ten eleven twelve first second third
    last next only other below above
    """
)
_PRONOUNS = _words("it itself them something someone anything everything yourself myself ones")
_NUMBERS = _words(
    "one two three four five six seven eight nine ten some any all each both most many several"
)
_ADJECTIVES = _words(
    """
    short long brief clear concise simple engaging original creative funny catchy detailed new old
    good bad big small large clever interesting persuasive formal informal professional polite
    unique positive negative dark light black red happy sad fun realistic specific coherent
    appropriate relevant accurate complete correct compelling quick easy effective efficient
    descriptive informative healthy strong weak smart warm friendly modern
    """
)
# Ends the phrase of a noun, though it is no function word.
_AFTER_NOUN = _words(
    """
    regarding together inside outside without available necessary required needed below above
    chronologically alphabetically accordingly out so
    """
)
_BOUNDARY = _words(
    """
    of for in on at by with from about into onto to as than like under over between among after
    before during without within through against per via and or but nor so if when while whether
    where why how what which who whose because since until unless is are was were be been being
    has have had can could should would will may might must do does did not using based
    containing describing explaining showing including consisting called named titled written
    taken used made following according such i you we he she they then vs
    """
)
_LEAVES_OBJECT = _words("give tell teach show offer send lend assign award")  # … someone a thing
_DETERMINERS = _words("a an the some any three two five several this these")
_CONTROL = _words("loop loops statement statements block blocks clause clauses expression")
_NOT_ADVERBS = _words("family reply anomaly assembly supply italy monopoly butterfly fly poly july")
_NOT_PARTICIPLES = _words("need seed speed feed breed shed bed thread embed red hundred")
_WORD = re.compile(
    r"[^\W_]+(?:['’\-_][^\W_]+|\.(?:js|net|py|io)\b)*(?:\+\+|(?<=\b[cf])#)?|[^\w\s]|_+"
)


def english_opening(instruction: str) -> tuple[str, str | None] | None:
    """Verb and object as in `alpaca_cli.data.openings.opening`."""
    tokens = _WORD.findall(instruction.lower().replace("’", "'"))
    start = True  # at the beginning of a clause?
    polite = False  # has the clause begun with what may stand before its verb?
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if start and _is_question(tokens, place, polite):
            word = token if token in _QUESTIONS or token in _AUXILIARIES else following
            return f"{word} …?", None
        if start and _is_command(token, following):
            return token, _object(tokens, place)
        if not token[0].isalnum():
            start, polite = token not in "'\"`", False
        elif token == "you" and following in _MODALS:
            start = polite = True
        else:
            start = start and _may_precede(token, following, polite)
            polite = start
    return None


def _is_question(tokens: Sequence[str], place: int, polite: bool) -> bool:
    token = tokens[place]
    following = tokens[place + 1] if place + 1 < len(tokens) else ""
    if token in _QUESTIONS or (token in ("in", "of", "at", "for") and following in _QUESTIONS):
        return True
    if polite or token not in _AUXILIARIES:
        return False
    if place and following not in _SUBJECTS:
        return False
    return next((mark for mark in tokens[place:] if mark in (".", "!", "?")), "") == "?"


def _is_command(token: str, following: str) -> bool:
    if following == ":" and token in _LABELS:
        return False
    if token == "help" and following in ("me", "us"):
        return False
    if token == "try" and following == "to":
        return False
    return token in _VERBS


def _may_precede(token: str, following: str, polite: bool) -> bool:
    if token == "your":
        return following in _TASKS
    if token == "to":  # "you need to …", not "to make it short, …"
        return polite
    return token in _POLITE


def _object(tokens: Sequence[str], verb: int) -> str | None:
    """The head of the noun phrase after the verb: the last of the words that can be in it."""
    head, end = _noun_phrase(tokens, _after_particle(tokens, verb))
    if (
        head
        and tokens[verb] in _LEAVES_OBJECT
        and tokens[end : end + 1]
        and (tokens[end] in _DETERMINERS or tokens[end].isdigit())
    ):
        return _noun_phrase(tokens, end)[0] or head
    return head


def _after_particle(tokens: Sequence[str], verb: int) -> int:
    """Where the object can begin: after "turn down", "fill in", or the second of two verbs."""
    place = verb + 1
    if tokens[place : place + 1] == ["and"] and tokens[place + 1 : place + 2]:
        place += 2 if tokens[place + 1] in _VERBS else 0
    if tokens[place : place + 1] and tokens[place] in _PARTICLES:
        place += 1 if tokens[place] != "in" or tokens[verb] in ("fill", "hand", "turn") else 0
    return place


def _noun_phrase(tokens: Sequence[str], place: int) -> tuple[str | None, int]:
    """The last noun-like word of the phrase that begins at `place`, and where the phrase ends."""
    head: str | None = None
    quoted: str | None = None
    while place < len(tokens):
        token = tokens[place]
        before = tokens[place - 1]
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if not token[0].isalnum():
            if token in "\"'“‘`" and head is None:
                place, quoted = _quotation(tokens, place)
                continue
            adjectives = token == "," and (head in _ADJECTIVES or before in _ADJECTIVES)
            if token not in "(_*" and not adjectives:
                break
            if token in "(" and head is not None:
                break
            head = None if adjectives else head
        elif head is None and token in ("following", "given", "provided"):
            pass
        elif token in _SKIPPED:
            # "the following sentence", "that list": before the noun; after it they end it.
            if head is not None and not head.endswith(("'s", "s'")):
                break
        elif _goes_on(token, before, following, head):
            head = None if token in ("and", "but", "or") else head
        elif token in _BOUNDARY or _ends_noun(token, following, head):
            break
        elif token in _PRONOUNS:
            return head, place
        elif not token[0].isdigit() and (len(token) > 1 or token in "cr") and not _adverb(token):
            head = token
        place += 1
    return head or quoted, place


def _quotation(tokens: Sequence[str], place: int) -> tuple[int, str | None]:
    """The place after a quotation, and its last word where it has one or two."""
    closing = {"“": "”", "‘": "’'"}.get(tokens[place], tokens[place])
    inside: list[str] = []
    for end in range(place + 1, len(tokens)):
        if tokens[end] in closing:
            return end + 1, inside[-1] if 1 <= len(inside) <= 2 else None
        inside.append(tokens[end])
    return place + 1, None


def _goes_on(token: str, before: str, following: str, head: str | None) -> bool:
    """Whether a word that usually ends a phrase is inside it."""
    if token in ("if", "for", "while", "do") and following in _CONTROL:
        return True
    if token == "of" and head is None and (before in _NUMBERS or before.isdigit()):
        return True
    if token in ("and", "but", "or"):
        return head in _ADJECTIVES
    return head is None and before in ("a", "an", "the") and token == "used"


def _ends_noun(token: str, following: str, head: str | None) -> bool:
    """Whether a word behind a noun begins something else: "code associated with …"."""
    if head is None:
        return False
    if token in _AFTER_NOUN or following == "than":
        return True
    if token.endswith("ed") and token not in _NOT_PARTICIPLES:
        return following in _BOUNDARY
    if token in ("found", "given", "done", "built", "known", "seen", "held"):
        return following in _BOUNDARY or not following
    if token.endswith("ing") and len(token) > 5:
        return following in _SKIPPED or following == "with"
    return False


def _adverb(token: str) -> bool:
    return token.endswith("ly") and token not in _NOT_ADVERBS
