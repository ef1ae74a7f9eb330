"""What a task asks for, guessed by rules that one can read.

A task has the type of the first rule that fits; the order of the rules is the order below.

    translation     a verb of translating, or "into French": the text changes its language
    code            a program, query, markup or regular expression is asked for or asked about, or
                    the answer is one
    maths           something is to be calculated, solved or proved, or is an equation
    summarization   a summary, abstract, gist or the main points are asked for
    classification  a label is asked for: classify, sentiment, true or false, which of these, "or
                    not"
    editing         a given text is to be said again: rewrite, correct, shorten, fill the gap
    conversion      given material is to get another form or order: convert, sort, format
    extraction      something is to be found in what is given: extract, find, select, identify
    listing         several things or ideas are asked for: list, suggest, name three, what are some
    generation      a text or a plan is to be made: write, create, design, compose
    conversation    no request at all: a remark, a greeting, a question to the assistant itself;
                    or a role to play
    closed question a question, an explanation or a judgement about a given input
    open question   the same without one
    other           no rule fits

The rules know English and Chinese. They look at the instruction, at whether there is an input, and
for code at the looks of input and answer; what the answer says is not read. How often they are
right is measured on hand-labelled rows in `tests/data/test_task_types.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import Group
from alpaca_cli.data.grouped import grouped
from alpaca_cli.data.openings import opening

TASK_TYPES = (
    "translation",
    "code",
    "maths",
    "summarization",
    "classification",
    "editing",
    "conversion",
    "extraction",
    "listing",
    "generation",
    "conversation",
    "closed question",
    "open question",
    "other",
)
_READ = 600  # characters of an instruction that are looked at
_LOOKED_AT = 1500  # characters of input and answer that are looked at for code


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _says(english: str, chinese: str = "") -> Callable[[str], bool]:
    """A test of lower-case text for one of the patterns, of which there is one to a line.

    English ones begin where a word begins. (They are looked for together: one by one, each with
    its own boundary, takes three times as long.)
    """
    lines = [line.strip() for line in english.splitlines() if line.strip()]
    in_english = re.compile(rf"(?<!\w)(?:{'|'.join(lines)})")
    in_chinese = re.compile(chinese or r"(?!)")
    return lambda text: bool(
        in_english.search(text) or (not text.isascii() and in_chinese.search(text))
    )


_TRANSLATION = _says(
    r"""
    translat(?:e|ion)\b(?!.{0,60}\b(?:code|regex|query|program|formula|python|java))
    (?:into|to) (?:french|spanish|german|italian|chinese|japanese|latin|arabic|russian|english)\b
    """,
    "翻译|译[成为]|[成为](?:英|中|法|德|日|西班牙)[语文]",
)
_CODE_TASK = _says(
    r"""
    (?:python|java|javascript|typescript|(?:my)?sql|html5?|css|php|ruby|perl|rust|kotlin|matlab)\b
    (?:bash|json|xml|yaml|node\.?js|react|jquery|django|numpy|pandas|tensorflow|mongodb|ajax|git)\b
    (?:regex|regular expression|linux|latex|leetcode|applescript|golang|excel vba|c\+\+|c#|\.net\b)
    (?:in|a|using) [cr]\b(?!['’])|(?:excel|spreadsheet|google sheets) formula
    (?:source|following|given|write|create|generate|the|this|a) (?:\w+ )?(?:code\b|script\b(?! of))
    (?:given|following|write|the|this|a) (?:\w+ )?(?:program|function|algorithm)\b(?! (?:for|of) )
    code (?:snippet|segment|block|line|to|that|for)\b|programming (?:code|problem|task)
    (?:function|program|script|algorithm) (?:to|that|which|for|called|named|in)\b
    (?:class|method) (?:called|named)\b
    if[ -](?:else )?statement|(?:for|while)[ -]loop|recursion\b|linked list|binary (?:search|tree)
    exception handler|web ?page\b|data ?frame\b|boolean\b|hash ?(?:map|table)\b|query (?:to|that)\b
    """,
    "代码|程序(?!员)|编程(?!语言)|脚本(?!。)|函数|算法|正则|写一个查询",
)
_NO_CODE_TASK = _says(
    r"""
    (?:dress|zip|postal|area|building|penal|moral|morse|colou?r) code|code of\b
    (?:weight|training|tv|television|exercise|fitness|loyalty|education\w*|school) program
    """
)
_CODE_SIGN = re.compile(r"[A-Za-z]\(|[={};<`]")
_CODE_LINE = re.compile(
    r"^\s*(?:```|def \w+|class \w+[:({ ]|import [\w.]+;?$|from [\w.]+ import|#include|#!/|"
    r"public \w|private \w|SELECT\s|CREATE TABLE|INSERT INTO|UPDATE \w+ SET|DELETE FROM|<\?php|"
    r"function\s*\w*\(|(?:var|let|const|int|string|double) \w+\s*=|<!DOCTYPE|<\w+(?: [^>]*)?>|"
    r"print\(|console\.log|System\.out|printf?\(|return\b.*;|for\s*\(|if\s*\(.*\)\s*\{|"
    r"while\s*\(|for \w+ in .*:|if .+:\s*$|using namespace|\w+(?:\.\w+)*\(.*\);?\s*$|"
    r"[A-Za-z_]\w*(?:\[.*\])? [-+*/]?= (?:[\[{\"']|\w+[.(\[]|new ).*$)",
    re.MULTILINE,
)
_MATHS_VERBS = _words("calculate compute solve multiply subtract simplify prove 计算 求 求解")
_NUMBERS = _says(r"\d|(?:area|average|mean|sum|perimeter|volume|product)\b", "和|积|值|数")
_MATHS = _says(
    r"""
    equations?\b|arithmetic|algebra|derivative of|integral of|quadratic\b|fractions?\b|perimeter\b
    square root|prime factor|nth term|probability (?:of|that)|percentage of|polynomial|word problem
    math(?:s|ematic\w*)? (?:word )?(?:problem|expression)|last column|to the power of
    (?:area|hypotenuse|slope) of (?:a|the)\b
    \d+ ?[-+*/×÷^] ?\d[^.]*=|\d+ ?[+*×÷^] ?\d|\d+ [-/] \d
    """,
    "方程|导数|平均[值数]|除以|概率",
)
_SUMMARY = _says(
    r"""
    summar(?:y|i[sz]\w+)\b|tl;?dr\b|gist\b|synopsis\b|sum up\b|condense\b
    (?:main|key) (?:points?|ideas?|takeaways?)\b
    """,
    "概括|总结|摘要|概要|归纳",
)
_LABEL_VERBS = _words(
    "classify categorize categorise label tag detect assign 分类 归类 判断 鉴定 辨别"
)
_LABEL = _says(
    r"""
    classif[iy]|categori[sz]e|sentiment\b(?! analysis)|true or false\b|yes or no\b|or not\b
    (?:tell|determine|decide|check|identify|predict|verify|evaluate|say) (?:me )?(?:if|whether)\b
    output ["“']?\w+["”']? (?:for|if)\b|(?:candidates|categories) (?:include|are)\b|as either\b
    ^\W*what (?:type|kind|part of speech|category|genre|data type)\b|which (?:category|class|type)\b
    ^\W*(?:select|choose) the (?:most|best|correct|right|appropriate|category)\b
    into (?:two|three) (?:categories|groups)|decide which\b|which part of speech
    """,
    "分类|归类|归为|情感(?!分析)|什么类型|哪种类型|属于",
)
_EDIT_VERBS = _words(
    """
    rewrite re-write edit correct paraphrase rephrase re-phrase reword change modify proofread
    improve shorten fix replace revise reformulate restate simplify polish remove delete expand
    adapt amend rearrange fill punctuate capitalize insert complete reorganize combine merge alter
    enhance transform update redact trim substitute add make unscramble cut recast negate convert
    turn
    编辑 修改 改写 重写 改为 改变 改成 纠正 更正 校对 替换 润色 简化 缩短 删除 删掉 去掉 添加 插入
    补充 转换 完成 填空 填写 补全 重组 表述 更改 组合 合并 扩展 改正 缩写
    """
)
_TEXT = _says(
    r"""
    (?:sentences?|paragraphs?|text|phrase|words?|essay|article|statement|passage|e-?mail|letter)\b
    (?:story|poem|verb|grammar|spelling|clause|blanks?|punctuation|voice|tense|description|title)\b
    (?:lyrics|review|headline|transcription|line|conversation|dialogue|joke|message|quote|resume)\b
    """,
    "句|文|段|词|话|标题|诗|陈述|评论",
)
_EDIT = _says(
    r"""
    more polite version|correct the (?:grammar|spelling)|paraphrase\b|rewrit(?:e|ten)\b
    complete the (?:sentence|phrase)|grammatically correct
    """,
    "重新表述|改写|语法错误",
)
_CONVERT_VERBS = _words(
    """
    convert sort order reorder re-order arrange rearrange format reformat transform transpose
    reverse rank alphabetize tabulate encode decode normalize group round
    转换 排序 排列 分组 转化 整理 格式化 翻转 排名
    """
)
_CONVERT = _says(r"convert\b|(?:alphabetical|ascending|descending) order", "顺序|转换|转化[为成]")
_EXTRACT_VERBS = _words(
    """
    extract find select identify locate pick retrieve highlight underline spot count name return
    output choose list 提取 找出 识别 找到 选择 选 标记 查找 抽取 统计 挑选
    """
)
_EXTRACT = _says(r"extract|named entit|key ?words\b|retrieve the\b", "提取|抽取|关键词")
_GIVEN = (
    "sentence|text|word|paragraph|passage|article|list|story|poem|email|input|array|string|dialogue|"
    "conversation|set|sequence|document|tweet|review|contract|table|data|paper|description"
)
_IN_GIVEN = _says(
    rf"""
    (?:in|from|of|within|given) (?:the|these|this|each|a|given) (?:[\w-]+ ){{0,3}}(?:{_GIVEN})
    """,
    "以下|下列|给定|[段句文]中",
)
_LIST_VERBS = _words("list brainstorm suggest recommend 列出 列举 建议 推荐")
_LIST_SEVERAL_VERBS = _words(
    """
    name propose give provide write come think make create generate find identify tell
    提出 想出 举出 说出 举 给出 提供 找出 编制
    """
)
_SEVERAL = _says(
    r"""
    ^\W*\w+ (?:me |us )?(?:some|several|a few|a list|two|three|five|\d+) (?!sentence|para|word|line)
    (?:list of|ideas|tips|suggestions|alternatives|synonyms|hashtags|pros and cons)\b
    """,
    r"^.{0,8}?[二两三四五六七八九十几\d]+[个种件条项本部点位](?!词|字)|一些|清单|点子",
)
_LIST = _says(
    r"""
    ^\W*(?:come up with|think of) (?:the|some|several|a list|alternatives|topics|ideas)\b
    (?:come up with|think of) an? (?:\w+ )?(?:idea|way)\b|come up with the names|suggesting \w+s\b
    make a list\b|(?:give|provide) (?:\w+ ){0,3}(?:tips|advice|ideas|suggestions)\b
    ^\W*\w+ (?:\w+ ){0,4}checklist\b
    ^\W*what (?:are (?:some|three|five|\d+|ways)|other \w|things|ways)
    """,
    "[，。：]请?(?:列出|列举|建议|推荐)|给出建议|清单|的列表[。.]?$|个步骤|的创意|"
    "的(?:步骤|方法|好处|措施|策略)[。.]?$",
)
_MAKE_VERBS = _words(
    """
    write create generate compose design draft invent construct craft reply respond
    写 生成 创建 创作 创造 设计 构建 编写 撰写 造句 起草 制作 制定
    """
)
_MAKE_TEXT_VERBS = _words(
    """
    make develop produce plan build devise imagine formulate curate prepare provide give tell
    schedule use complete continue form come propose think show include
    编制 想象 写出 想出 构思 讲 发布 开发 建立 画 绘制 组成 规划 计划 编造 取名 给 给出 提供 使用
    准备 续写 提出 发送 拟定 命名 策划 编 做
    """
)
_MADE = _says(
    r"""
    (?:story|poem|haiku|essay|letter|e-?mail|article|song|lyrics|slogan|tagline|joke|riddle|plan)\b
    (?:dialogue|script|speech|headlines?|titles?|recipe|itinerary|sentences?|paragraphs?|post|tweet)\b
    (?:description|review|report|ad|motto|menu|budget|survey|questionnaire|logo|names?|bio|caption)\b
    (?:metaphor|simile|analogy|quiz|outline|schedule|message|narrative|profile|scene|quote|resume)\b
    (?:playlist|game|ending|hook|questions?|response|reply|proverb|conversation|policy|argument)\b
    example of a\b
    """,
    "诗|故事|信|邮件|文章|歌|口号|标题|笑话|对话|演讲|计划|食谱|句子?|段落?|推文|广告|海报|例子|问题|短语|话|谚语|标语|比喻|双关",
)
_CONVERSATION = _says(
    r"""
    ^\W*(?:act as|pretend|role-?play|you are (?:a|an|my) (?!given)\w+)
    ^\W*(?:are|have|were|did) you\b|your (?:name|favou?rite \w+)\b.*\?$|^(?:hi|hello|hey|thanks?)\b
    """,
    "扮演|假装|假设你是|^(?:道歉|你好|谢谢)",
)
_TOPIC = re.compile(
    "的(?:方式|定义|概念|原因|重要性|特点|方向|名字|语法|目的|过程|区别|影响|作用|用途|历史|意义)[。.]?$"
)
_MATERIAL = re.compile(r"[\"“「].{3,}[\"”」]|[:：]\s*\S{2,}")  # given in the instruction itself
_ABOUT_INPUT = _says(
    r"""
    multiple choice|(?:article|story|text|paper|passage|sentence|statement|joke|paragraph|poem)
    (?:pairs|answer that|options|email|dialogue|review|lyrics|claim|quote|argument|situation|data)\b
    """,
    "陈述|段落|文章|句子|文中|数据|上下文|文本",
)


def task_type(example: Example) -> str:
    """One of `TASK_TYPES`: the first rule that fits, in their order."""
    text = example.instruction[:_READ].lower()
    given = bool(example.input.strip()) or _MATERIAL.search(text) is not None
    found = opening(example.instruction)
    verb = found[0] if found else ""
    if _TRANSLATION(text):
        return "translation"
    if _CODE_TASK(text) and not _NO_CODE_TASK(text):
        return "code"
    if _looks_like_code(example.output) or _looks_like_code(example.input):
        return "code"
    if _is_maths(text, verb, example.input):
        return "maths"
    if _SUMMARY(text):
        return "summarization"
    if verb in _LABEL_VERBS or _LABEL(text):
        return "classification"
    if _changes_what_is_given(text, verb, given):
        return "editing"
    if verb in _CONVERT_VERBS or _CONVERT(text):
        return "conversion"
    if _EXTRACT(text) or (verb in _EXTRACT_VERBS and _IN_GIVEN(text)):
        return "extraction"
    if _asks_for_several(text, verb):
        return "listing"
    if verb in _MAKE_VERBS or (verb in _MAKE_TEXT_VERBS and _MADE(text)):
        return "generation"
    if _CONVERSATION(text):
        return "conversation"
    if verb or _TOPIC.search(text):
        return "closed question" if given and _ABOUT_INPUT(text) else "open question"
    return "other" if given else "conversation"


def _looks_like_code(text: str) -> bool:
    """Whether a line of it is one of a program. The first test is only for speed."""
    text = text[:_LOOKED_AT]
    return bool(_CODE_SIGN.search(text) and _CODE_LINE.search(text))


def _is_maths(text: str, verb: str, given: str) -> bool:
    if verb in _MATHS_VERBS and _NUMBERS(f"{text} {given[:100]}"):
        return True
    return _MATHS(text)


def _changes_what_is_given(text: str, verb: str, given: bool) -> bool:
    if _EDIT(text):
        return True
    return verb in _EDIT_VERBS and _TEXT(text) and (given or _IN_GIVEN(text))


def _asks_for_several(text: str, verb: str) -> bool:
    if verb in _LIST_VERBS or _LIST(text):
        return True
    return verb in _LIST_SEVERAL_VERBS and _SEVERAL(text)


def count_task_types(examples: Sequence[Example]) -> dict[str, Group]:
    """Every type -> its examples, in the order of `TASK_TYPES`; also the types with none."""
    found = grouped(examples, map(task_type, examples))
    return {name: found.get(name, Group(0, 0.0, [])) for name in TASK_TYPES}
