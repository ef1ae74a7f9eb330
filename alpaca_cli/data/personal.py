"""What looks like personal data in a text: addresses and numbers that could be somebody's.

Right rather than complete: a number counts only when it passes what its kind can be checked by
(Luhn, the IBAN checksum, the North American number plan), and not when it is reserved for
documentation (example.com, 555-01xx, 192.0.2.0/24, the card numbers of payment test suites). Names
and street addresses are not looked for. Whether a value is real is not known here: a model that
invents e-mail addresses invents good ones.

Sources: RFC 2606, 5737 and 3849; ISO 7812 and 13616; the NANP; Ofcom's numbers for drama.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from ipaddress import IPv4Address, IPv6Address, ip_address

from alpaca_cli.core.settings_filters import PersonalKind


def find_personal(text: str, kinds: Set[PersonalKind]) -> tuple[str, str] | None:
    """The first finding of these kinds as (what it is, its masked value), None without one."""
    for kind, (pattern, holds, noun) in _KINDS.items():
        if kind in kinds and not (kind == "email" and "@" not in text):
            for found in pattern.finditer(text):
                if holds(found):
                    return noun, mask(found[0])
    return None


def mask(value: str) -> str:
    """The value with only its two first and two last characters left, for messages and files."""
    return f"{value[:2]}…{value[-2:]}"


# --- e-mail -------------------------------------------------------------------------------------

_EMAIL = re.compile(
    r"(?<![\w.%+@-])[A-Za-z0-9][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w@-])"
)
_RESERVED_HOST = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org|edu)|example|test|invalid|localhost|local)$", re.IGNORECASE
)
_STAND_IN = re.compile(
    r"(?:examples?|users?|user[._-]?name|your[._-]?(?:name|e?mail)|name|e?mail|test|foo|bar)\d*",
    re.I,
)


def _email(found: re.Match[str]) -> bool:
    name, _, host = found[0].rpartition("@")
    return not _RESERVED_HOST.search(host) and not _STAND_IN.fullmatch(name)


# --- telephone ----------------------------------------------------------------------------------

_PHONE = re.compile(
    r"(?<![\w.+/=-])(?:\+(?P<code>[1-9]\d{0,2})(?:[ .-]?\(?\d{1,5}\)?){2,6}"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w/=-]|\.\d)"
)
_DRAMA = re.compile(
    r"44(?:1632960|7700900|2079460|1[1-6]1496|1[1-9]1496|8081570|9098790|3069990)\d"
)


def _phone(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found[0])
    if found["code"] is not None:
        # "5 +123456789" is a sum.
        before = found.string[max(0, found.start() - 3) : found.start()].rstrip()[-1:]
        if not 8 <= len(digits) <= 15 or before.isdigit() or before in set("=)*"):
            return False
        if not digits.startswith("1"):
            return not _DRAMA.match(digits)
    national = digits[-10:]
    if len(digits) not in (10, 11) or (len(digits) == 11 and digits[0] != "1"):
        return False
    area, exchange, line = national[:3], national[3:6], national[6:]
    # The North American plan: neither begins with 0 or 1; 555-01xx and the area 555 are nobody's.
    if area[0] in "01" or exchange[0] in "01" or area == "555" or area[1:] == "11":
        return False
    return not (exchange == "555" and line.startswith("01"))


# --- numbers with a checksum or a plan -----------------------------------------------------------

_CARD = re.compile(r"(?<![\w.,+-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
_ISSUER = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|62\d{14,17})"
)
_GROUPS = re.compile(r"\d+|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}")
# Payment providers' test numbers, which documentation is full of.
_TEST_CARDS = frozenset((
    "4242424242424242", "4111111111111111", "4012888888881881", "4000056655665556", "4222222222222",
    "4000000000000002", "5555555555554444", "5105105105105100", "5200828282828210",
    "2223003122003222", "378282246310005", "371449635398431", "378734493671000", "6011111111111117",
    "6011000990139424", "30569309025904", "38520000023237", "3530111333300000", "3566002020360505",
    "6200000000000005",
))  # fmt: skip


def _card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found[0])
    if digits in _TEST_CARDS or not _GROUPS.fullmatch(found[0]) or not _ISSUER.fullmatch(digits):
        return False
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(n - 9 * (n > 9) for n in doubled)) % 10 == 0


_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
# Printed on sample cards and in leaflets, or counted out.
_SAMPLE_SSN = frozenset(("078-05-1120", "219-09-9999", "123-45-6789", "111-11-1111"))


def _ssn(found: re.Match[str]) -> bool:
    return found[0] not in _SAMPLE_SSN


_IBAN = re.compile(
    r"(?<!\w)[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?!\w)"
)
# The examples of the registry and of Wikipedia.
_SAMPLE_IBANS = frozenset((
    "DE89370400440532013000", "GB29NWBK60161331926819", "GB82WEST12345698765432",
    "GB33BUKB20201555555555", "FR1420041010050500013M02606", "ES9121000418450200051332",
    "IT60X0542811101000000123456", "NL91ABNA0417164300", "CH9300762011623852957",
    "AT611904300234573201", "BE68539007547034",
))  # fmt: skip


def _iban(found: re.Match[str]) -> bool:
    value = found[0].replace(" ", "")
    number = int("".join(str(int(character, 36)) for character in value[4:] + value[:4]))
    return 15 <= len(value) <= 34 and number % 97 == 1 and value not in _SAMPLE_IBANS


# --- addresses of machines ------------------------------------------------------------------------

_IP = re.compile(
    r"(?<![\w.:/-])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w/-]|\.\d)"
    r"|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{4,34}[0-9A-Fa-f](?![\w:/]))"
)
_PUBLIC_SERVERS = frozenset((
    "1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "208.67.222.222", "208.67.220.220",
    "2001:4860:4860::8888", "2001:4860:4860::8844", "2606:4700:4700::1111",
))  # fmt: skip


def _ip(found: re.Match[str]) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(found[0])
    except ValueError:
        return False
    # Four small numbers are a version, or the number of a section.
    version = address.version == 4 and max(address.packed) < 32
    return address.is_global and not version and str(address) not in _PUBLIC_SERVERS


_Check = Callable[[re.Match[str]], bool]
_KINDS: dict[PersonalKind, tuple[re.Pattern[str], _Check, str]] = {
    "email": (_EMAIL, _email, "an e-mail address"),
    "phone": (_PHONE, _phone, "a telephone number"),
    "card": (_CARD, _card, "a card number"),
    "ssn": (_SSN, _ssn, "a US social security number"),
    "iban": (_IBAN, _iban, "an IBAN"),
    "ip": (_IP, _ip, "an IP address"),
}
