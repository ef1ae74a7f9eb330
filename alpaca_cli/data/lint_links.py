"""Links in tasks: pages that a model would have to open, and addresses that it made up."""

from __future__ import annotations

import re

from alpaca_cli.core.records import Example

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'`)\]}，。）》、]+", re.IGNORECASE)
_FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
# What has to be read to be done, when all there is to read is a link.
_READS = re.compile(
    r"\b(?:summari[sz]e|sum up|read|visit|open|watch|browse|outline|review|critique|paraphrase|"
    r"rewrite|translate|transcribe|describe|caption|analy[sz]e|explain|extract|list|headline|"
    r"find|answer|what|who|main (?:idea|point)s?)\b|总结|概括|阅读|打开|访问|观看|翻译|描述|分析|"
    r"提取",
    re.I,
)
_ABOUT_LINKS = re.compile(
    r"\b(?:urls?|uris?|domains?|protocol|hostname|port|regex|regular expression|pars\w*|valid\w*|"
    r"functions?|programs?|scripts?|codes?|snippets?|class|query|curl|request|api|endpoint|html|"
    r"css|"
    r"xml|hyperlinks?|encod\w*|decod\w*|shorten\w*|scrap\w*|crawl\w*|download\w*|git|citations?|"
    r"cite|reference|bibliography|string|javascript|python|php|java|ajax|redirect)\b|代码|程序|"
    r"网址|链接|引用",
    re.I,
)
# Words that ask for an address, or for what is named by one.
_WANTS_LINKS = re.compile(
    r"\b(?:urls?|uris?|links?|hyperlinks?|web ?sites?|web ?pages?|sites?|pages?|online|internet|"
    r"web|"
    r"source|sources|references?|cite|citations?|bibliography|resources?|html|code|script|program|"
    r"function|api|app|e-?mail|press release|advert\w*|flyer|brochure|newsletter|post|tweet|git|"
    r"github|documentation|playlist|download|curl|request|domain|server|json|xml|sql|python|"
    r"javascript|java|php|css|readme|markdown|resume|cv|profile|contact)\b|网站|网址|链接|网页|"
    r"来源|"
    r"参考|引用|代码|资源|程序|邮件|脚本",
    re.I,
)
_RESERVED = re.compile(
    r"(?:https?://)?(?:www\.)?(?:example|your|my|company|localhost|127\.|0\.0\.|website|site\b|"
    r"domain|[\w-]+\.(?:example|test|invalid|local))|[{$<\[]|(?:^|\.)w3\.org",
    re.I,
)
_SHORT = 300  # characters of a question beside its link that cannot be the page itself


def link_to_open(example: Example) -> str:
    """The link that a task is about when there is nothing else to go by; empty otherwise.

    An input that is only a link is the business of `link-as-input`.
    """
    question = f"{example.instruction}\n{example.input}"
    if "://" not in question and "www." not in question:
        return ""
    if _URL.fullmatch(example.input.strip()) or _ABOUT_LINKS.search(_URL.sub("", question)):
        return ""
    found = _URL.search(question)
    if not found or len(_URL.sub("", question)) > _SHORT:
        return ""
    return found[0] if _READS.search(_URL.sub("", example.instruction)) else ""


def invented_link(example: Example) -> str:
    """A page's address in the prose of an output that nobody asked for; empty otherwise.

    A site's home page is a name like another; only an address with a path can be a wrong one.
    """
    output = example.output
    if "://" not in output and "www." not in output:
        return ""
    question = f"{example.instruction}\n{example.input}"
    if _WANTS_LINKS.search(question):
        return ""
    for found in _URL.finditer(_FENCED.sub(" ", output)):
        link = found[0].rstrip(".,;:!?*_")
        path = re.sub(r"^(?:https?://)?[^/]+", "", link).strip("/")
        if path and link not in question and not _RESERVED.match(link):
            return link
    return ""
