"""Replies that are no answers: refusals, and requests for material that the task did not give.

Only the beginning of an output is read, where such replies begin. What the same words say on
purpose stays: a letter that declines, a robot's monologue, a chatbot's script, "As an AI
researcher, I …". Patterns are those of the published Alpaca data and its Chinese counterpart, and
self-descriptions in German, French and Spanish.
"""

from __future__ import annotations

import re

from alpaca_cli.core.records import Example

_HEAD = 400  # characters of an output that are read

_SORRY = (
    r"(?:(?:I'?m|I am) (?:very |really |truly |so )?(?:sorry|afraid)|Sorry|(?:My )?Apologies|"
    r"I apologi[sz]e|Unfortunately)[,.;:!]?\s+(?:(?:but|however|that)\b,?\s+)?(?:unfortunately,? )?"
)
# A model, not a person who works with models: nothing but these words may follow.
_A_MODEL = (
    r"an? (?:AI|A\.I\.|artificial intelligence|(?:large )?language model|chat ?bot|"
    r"virtual assistant|computer program|text-based (?:AI|model|assistant))"
    r"(?:[ -](?:powered|based|driven|text|language|chat|virtual|digital|writing|model|assistant|"
    r"system|program|software|bot|chatbot|tool|agent|entity|being))*"
    r"(?: (?:developed|created|trained|made|built|designed) (?:by|to|for|on) [\w ]{1,40})?"
)
_CANNOT = r"(?:can ?not|can't|am unable to|am not able to|'m unable to|'m not able to)"
_NOT = (
    rf"(?:{_CANNOT}|(?:do|did|would|will|could) not|(?:do|did|would|could)n't|won't|lack|"
    r"have no|(?:am|'m) (?:not|incapable|unable|only)|never)"
)
_AS_A_MODEL = re.compile(
    rf"(?:{_SORRY})?(?:as {_A_MODEL},?\s+(?:unfortunately,? )?I ?{_NOT}\b"
    # "I am an AI and cannot …"; "I'm an AI, so unable to …"
    rf"|(?:but )?I(?:'m| am) (?:just |only )?{_A_MODEL}(?:,| and\b| so\b| that\b| which\b)"
    rf"[^.!?\n]{{0,30}}?(?:\bnot\b|n't\b|\bcannot\b|\bunable\b|\bincapable\b))"
    r"|(?:es tut mir leid,? (?:aber )?|leider )?als (?:eine? )?"
    r"(?:KI|künstliche Intelligenz|(?:großes )?Sprachmodell)[\w-]{0,20},? "
    r"(?:kann|habe|bin|darf) ich (?:\w+ ){0,2}?(?:nicht|kein)"
    r"|(?:(?:je suis )?désolée?,? (?:mais )?)?en tant qu"
    r"(?:'IA|'intelligence artificielle|e modèle (?:de langage|d'IA))[^.\n]{0,30}?,? je (?:ne |n')"
    r"|(?:lo siento,? (?:pero )?)?como (?:una? )?"
    r"(?:IA|inteligencia artificial|modelo de (?:lenguaje|IA))[^.\n]{0,30}?,? no ",
    re.IGNORECASE,
)
_DECLINES = re.compile(
    rf"{_SORRY}I ?{_CANNOT} (?:assist|help (?:you )?with|fulfil|provide|generate|create|access|"
    r"answer|open|view|retrieve|browse|comply)"
    rf"|{_SORRY}I (?:do not|don't) have (?:access|the (?:ability|capability)|enough (?:data|"
    r"information|context|details)|real-time)\b"
    rf"|I ?{_CANNOT} (?:comply|(?:assist|help)(?: you)? with (?:this|that|your request)|"
    r"fulfil+ (?:this|that|your) request)\b",
    re.IGNORECASE,
)
_ZH_SORRY = (
    r"(?:您好[，,！!。]?\s*)?(?:我?(?:很|非常|真的|十分)?(?:抱歉|对不起|不好意思))[，,。！!]?\s*"
)
_ZH_MODEL = re.compile(
    rf"(?:{_ZH_SORRY})?(?:但是?|但)?[，,]?\s*(?:由于|因为|鉴于)?(?:我只?是|我?作为)"
    r"(?:一[个名款位]|个)?(?:大型|大|文本|文字型?|在线|虚拟)?\s*"
    r"(?:AI|人工智能|语言模型|语言AI|文本机器人|聊天机器人|机器人|助手)[^，,。.！!？?\n]{0,15}[，,]?\s*"
    r"(?:所以|因此)?我?(?:并|也|还)?(?:无法|不能|没有|没办法|不具备|不会)",
    re.IGNORECASE,
)
_ZH_DECLINES = re.compile(
    rf"{_ZH_SORRY}(?:但是?)?[，,]?\s*我(?:无法|不能)"
    r"(?:提供|回答|帮助|帮您|协助|满足|完成|执行|生成|访问|查看|看到|打开)"
)
# Tasks in which a machine may speak of itself.
_ABOUT_MACHINES = re.compile(
    r"\b(?:AI|A\.I\.|AIs|artificial intelligence|chat ?bots?|language models?|LLMs?|robots?|"
    r"androids?|cyborgs?|assistants?|machines?|\w*GPT\w*|Siri|Alexa|KI|IA)\b"
    r"|^(?:are|do|did|were|have|who are|what are) you\b|人工智能|机器人|语言模型|助手|你是",
    re.IGNORECASE,
)
# Tasks whose answer is what somebody says to somebody.
_ABOUT_MESSAGES = re.compile(
    r"\b(?:letters?|e-?mails?|messages?|notes?|texts? to|repl(?:y|ies)|respon(?:d|ds|se|ses) to|"
    r"declin\w*|refus\w*|reject\w*|apolog\w*|excuses?|turn(?:ing)? down|dialogues?|dialogs?|"
    r"conversations?|role-?play\w*|pretend|act as|scripts?|scenes?|customers?|invitations?|lyrics?|"
    r"say(?:ing)? no|voicemail|rephras\w*|rewrit\w*|re-write|translat\w*|paraphras\w*|polite\w*|"
    r"formal|complete the sentence|quotes?)\b|信|邮件|回复|对话|道歉|拒绝|婉拒|改写|翻译|客户",
    re.IGNORECASE,
)


def refusal(example: Example) -> str:
    """The words with which an output refuses; empty when it does not."""
    head = example.output.lstrip(" \t\r\n\"'“").replace("’", "'")[:_HEAD]
    question = example.instruction
    if found := _AS_A_MODEL.match(head) or _ZH_MODEL.match(head):
        return "" if _ABOUT_MACHINES.search(question) else found[0]
    if found := _DECLINES.match(head) or _ZH_DECLINES.match(head):
        return "" if _ABOUT_MESSAGES.search(question) else found[0]
    return ""


_NOT_GIVEN = re.compile(
    rf"(?:{_SORRY})?(?:it (?:seems|looks like|appears)(?: that| like)? )?you "
    r"(?:did not|didn't|have not|haven't|forgot to|need to)(?: actually)? "
    r"(?:provided?|included?|specif(?:y|ied)|attach(?:ed)?|give|given|shared?|pasted?) (?!for\b)"
    r"|(?:(?:Sure|Certainly|Of course|Hello|Hi)[,!.]? )?(?:please|could you(?: please)?) "
    r"(?:provide|share|paste|specify|give)(?: me)?(?: with)? [^.?!\n]{1,80}?\b"
    r"(?:so (?:that )?I can|(?:you would|you'd|you) (?:like|want|need) me to|for me to)\b",
    re.IGNORECASE,
)
_ZH_NOT_GIVEN = re.compile(
    rf"(?:您好[，,！!。]?\s*)?(?:{_ZH_SORRY})?(?:但是?)?[，,]?\s*(?:由于|因为|但是?)?(?:您|你)(?:并)?"
    r"(?:没有|未|没)(?:能)?(?:为我)?(?:提供|给出|给我|给定|指定|附上)"
    r"|(?:您好[，,！!。]?\s*)?请(?:您)?(?:先)?提供[^。！？\n]{1,40}(?:我才能|以便我|这样我|我会|我将|我非常乐意)"
)


def asks_for_material(example: Example) -> str:
    """The words with which an output asks for what the task did not give; empty when it does not.

    Only without an input, and only where the task cannot be to write such a request.
    """
    if example.input.strip():
        return ""
    head = example.output.lstrip(" \t\r\n\"'“").replace("’", "'")[:_HEAD]
    found = _NOT_GIVEN.match(head) or _ZH_NOT_GIVEN.match(head)
    if not found or _ABOUT_MESSAGES.search(example.instruction):
        return ""
    return found[0]
