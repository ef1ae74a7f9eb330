"""Tasks that nobody can do in a text: making media, looking at what is not there, live facts.

Those who cleaned the Alpaca data took them out by hand, because a model that is trained on an
answer to them learns to make things up. A text about media stays: the script of a video, a caption
for a photograph, a logo as SVG.
"""

from __future__ import annotations

import re

from alpaca_cli.core.records import Example

_CODE = re.compile(
    r"```|<(?:svg|html|canvas|table|div|script)\b|^[ \t]*(?:import|from|def|#include)\b", re.M
)

_MEDIA = (
    r"(?:images?|pictures?|photos?|photographs?|logos?|graphics?|illustrations?|drawings?|"
    r"paintings?|"
    r"posters?|infographics?|videos?|animations?|gifs?|audio(?: clips?| files?| recordings?)?|"
    r"sketch|"
    r"collages?|wallpapers?|icons?|cartoons?|flowcharts?|mood ?boards?)"
)
# The thing itself is wanted, not its title, script or description: no other noun follows.
_MAKES_MEDIA = re.compile(
    r"^(?:please |you need to |i need you to |can you |could you )?"
    r"(?:create|design|draw|generate|make|produce|paint|sketch|record|render|edit|crop|"
    r"colori[sz]e|illustrate|film|photoshop)\b"
    rf"(?: me| us)?(?: (?!of\b|for\b|that\b|about\b|to\b|and\b|in\b|from\b|with\b|on\b|"
    rf"ascii\b|"
    rf"svg\b|text\b|textual\b|written\b|html\b|css\b|word\b|list\b)[\w'-]+){{0,5}}? {_MEDIA}"
    r"(?=[.!,]|$| (?:of|for|so|that|to|which|showing|depicting|representing|with|based|featuring|"
    r"illustrating|about|using (?!html|css|svg|python|javascript|ascii|text|turtle|matplotlib|"
    r"code)))",
    re.I,
)
_MAKES_MEDIA_ZH = re.compile(
    r"^(?:请)?(?:为[^，。]{1,20})?(?:设计|绘制|制作|画|创作|生成)[^，。的文标描脚剧]{0,14}"
    r"(?:图片|图像|照片|标志|徽标|海报|插图|视频|音频|动画|漫画|图画)(?:[。！，]|$)"
    r"|^(?:请)?(?:设计|绘制|制作|画)(?:一[张幅个份])?(?:关于|有关)?[^，。]{0,16}的(?:图片|图像|"
    r"标志|徽标|海报|插图|"
    r"视频|动画)(?:[。！，]|$)|^(?:请)?(?:设计|绘制|制作|画)一[张幅](?:海报|图片|图画|插图|漫画)",
)
# What may be asked for in words, or drawn with letters.
_IN_WORDS = re.compile(
    r"\b(?:ascii|svg|html|css|code|prompt|script|titles?|captions?|descri\w+|names?|slogans?|"
    r"concepts?|ideas?|class|function|program|plan|list|text|words?|storyboard|outline|tags?|alt|"
    r"emojis?|unicode|latex|tikz|mermaid|steps?|instructions?|how|guide|tutorial|python|javascript|"
    r"turtle|matplotlib|mental|poem|story|narrative|metaphor\w*|rhetorical|album|gallery|brand\w*|"
    r"character sketch|reinterpretation)\b|步骤|代码|如何|描述|标题|名称|Illustrator|Photoshop",
    re.I,
)


def asks_for_media(example: Example) -> str:
    """The words that ask for a picture, a sound or a film; empty when nothing does."""
    instruction = example.instruction.strip()
    found = _MAKES_MEDIA.match(instruction) or _MAKES_MEDIA_ZH.match(instruction)
    if not found or _IN_WORDS.search(instruction) or _CODE.search(example.output):
        return ""
    return found[0]


_PICTURE = (
    r"(?:image|picture|photo|photograph|screenshot|video|video clip|audio|audio clip|recording|"
    r"painting|drawing|diagram|chart|graph|map|figure|file|document|pdf|spreadsheet|attachment)"
)
_POINTS = re.compile(
    rf"\b(?:the|this|an) (?:attached|enclosed|uploaded) (?:\w+ ){{0,2}}?{_PICTURE}s?\b"
    rf"|\b(?:the|this|these) (?:following|given|provided|above|below) (?:\w+[ -]){{0,4}}?"
    rf"(?:image|picture|photo|photograph|screenshot|video|video clip|audio|audio clip|"
    rf"recording)s?\b"
    rf"|\b(?:in|of|from|at|see|describe|caption|colori[sz]e) (?:this|these) "
    rf"(?:\w+ )?(?:image|picture|photo|photograph|screenshot|video|painting|drawing)s?\b"
    r"|(?:附件|这张|这幅|下图|上图|给定的?|以下|下面的?)(?:中的)?(?:图片|图像|照片|视频|音频|画作|"
    r"截图)",
    re.I,
)
# Every match of _POINTS has one of these, which are looked for first: it is quicker.
_NAMES_ONE = re.compile(
    r"attached|enclosed|uploaded|image|picture|photo|screenshot|video|audio|recording|painting|"
    r"drawing|图|照片|视频|音频|画|附件",
    re.I,
)
_FILE = re.compile(
    r"[<\[(]?\s*[\w ./\\:-]{1,80}\.(?:jpe?g|png|gif|bmp|svg|webp|mp3|mp4|wav|mov|avi|pdf|docx?|"
    r"xlsx?|"
    r"pptx?)\s*[>\])]?",
    re.I,
)
_STAND_IN = re.compile(
    rf"[<\[(]\s*(?:an? |the )?(?:attached |uploaded )?(?:\w+ )?{_PICTURE}s?"
    r"(?: (?:attached|uploaded|here|of [\w ]{1,60}))?\s*[>\])]"
    rf"|{_PICTURE}s? attached\.?|(?:see )?attached(?: \w+)?\.?|!\[[^\]\n]*\]\([^)\n]*\)|"
    rf"<img\b[^>]*>",
    re.I,
)
_LINK = re.compile(r"(?:https?://|www\.)\S+", re.I)
_ABOUT_FILES = re.compile(
    r"\b(?:file ?names?|extensions?|paths?|rename|code|function|program|script|html|markdown|tags?|"
    r"command|regex|e-?mail|letter|message|sentence|phrase|translate|rewrite|paraphras\w*|grammar|"
    r"path|directory)\b|代码|文件名|翻译",
    re.I,
)


def points_to_attachment(example: Example) -> str:
    """What of a task says that a picture, a sound or a file is attached; else empty."""
    given, instruction = example.input.strip(), example.instruction
    if given and (_STAND_IN.fullmatch(given) or _FILE.fullmatch(given)):
        return "" if _ABOUT_FILES.search(instruction) else given
    if (given and not _LINK.fullmatch(given)) or not _NAMES_ONE.search(instruction):
        return ""
    found = _POINTS.search(instruction)
    if not found or _ABOUT_FILES.search(instruction):
        return ""
    # The thing itself may follow, described or drawn, after a colon or on the next line.
    return "" if re.search(r"[:：]\s*\S|\n", example.instruction[found.end() :]) else found[0]


_LIVE = re.compile(
    r"\b(?:current|today'?s|tomorrow'?s|tonight'?s|this week'?s|latest|live|real-?time) "
    r"(?:\w+ ){0,2}?(?:weather|temperature|forecast|stock (?:price|market)|share price|"
    r"exchange rate|price of (?:bitcoin|gold|oil|[A-Z]\w+)|news(?: headlines?)?|headlines?|"
    r"traffic|score|time in)\b"
    r"|\bweather (?:forecast |like )?(?:in|for) [\w ]{2,30}? (?:today|tomorrow|tonight|now|"
    r"this week)\b"
    r"|\bwhat (?:time|day|date) is it\b|\bwhat is (?:today'?s|the current) (?:date|time|day)\b"
    r"|^(?:please )?(?:search|google|browse|look up)\b[^.?!\n]{0,40}\b(?:the (?:web|internet)|"
    r"online|"
    r"on google)\b"
    r"|今天[^，。？]{0,8}(?:天气|气温|新闻|股价)|(?:现在|当前)(?:的)?(?:时间|几点|天气|股价|气温)",
    re.I,
)
_SHORT = 120  # characters
_ABOUT_LIVE = re.compile(
    r"\b(?:code|program|function|script|api|app|class|query|sql|html|javascript|python|java|php|"
    r"dialogue|conversation|story|poem|sentence|translate|rewrite|edit|e-?mail|letter|how (?:to|"
    r"can|"
    r"do|does)|impact|effects?|importance|trends?|explain|ways?|write|compose|create|website|"
    r"design|"
    r"snippet|questions?|headline for|scene|imagine|you are|pretend|essay|article)\b|对话|代码|"
    r"程序|句|翻译|改写|编辑|文章|故事",
    re.I,
)


def needs_live_facts(example: Example) -> str:
    """The words that ask for what only somebody with a clock or the web can know; else empty."""
    if len(example.instruction) > _SHORT or len(example.input) > _SHORT:
        return ""  # the facts may be given
    if _CODE.search(example.output):
        return ""
    found = _LIVE.search(example.instruction)
    return found[0] if found and not _ABOUT_LIVE.search(example.instruction) else ""
