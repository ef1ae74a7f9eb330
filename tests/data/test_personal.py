"""Personal data is found where it can be checked; documentation values are left alone."""

from __future__ import annotations

import time

import pytest

from alpaca_cli.core.settings_filters import PERSONAL_KINDS, PersonalKind
from alpaca_cli.data.personal import find_personal


@pytest.mark.parametrize(
    ("kind", "text", "masked"),
    [
        ("email", "write to anna.k@posteo.de today", "an…de"),
        ("email", "<Bob_99@mail.ru>", "Bo…ru"),
        ("email", "It is a+b@sub.firma.co.uk.", "a+…uk"),
        ("phone", "call (415) 867-5309", "(4…09"),
        ("phone", "415-867-5309", "41…09"),
        ("phone", "+1 415 867 5309", "+1…09"),
        ("phone", "1-800-275-2273", "1-…73"),
        ("phone", "+49 30 901820 now", "+4…20"),
        ("phone", "+44 20 8765 4321", "+4…21"),
        ("phone", "+33 1 42 68 53 00", "+3…00"),
        ("phone", "tel:+14158675309", "+1…09"),
        ("card", "4532015112830366", "45…66"),
        ("card", "4532 0151 1283 0366", "45…66"),
        ("card", "5425-2334-3010-9903", "54…03"),
        ("card", "Amex 3741 111111 11111.", "37…11"),
        ("ssn", "SSN 536-22-8741.", "53…41"),
        ("iban", "DE12500105170648489890", "DE…90"),
        ("iban", "to DE12 5001 0517 0648 4898 90, please", "DE…90"),
        ("iban", "FR7630006000011234567890189", "FR…89"),
        ("ip", "81.2.69.142", "81…42"),
        ("ip", "from 2a00:1450:4001:81b::200e, port 80", "2a…0e"),
    ],
)
def test_found_and_masked(kind: PersonalKind, text: str, masked: str) -> None:
    found = find_personal(text, {kind})
    assert found is not None
    assert found[1] == masked
    others = frozenset(PERSONAL_KINDS) - {kind}
    assert find_personal(text, others) is None


@pytest.mark.parametrize(
    "text",
    [
        # reserved for documentation
        "jane@example.com", "x@mail.example.org", "a@host.test", "user@gmail.com",
        "your_name@company.com", "415-555-0123", "(212) 555-0199", "555-123-4567",
        "+1 555 123 4567", "+44 20 7946 0958", "+44 7700 900123", "4111111111111111",
        "4242 4242 4242 4242", "123-45-6789", "078-05-1120", "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432", "192.0.2.44", "203.0.113.9", "198.51.100.3", "2001:db8::1",
        # nobody's
        "192.168.0.1", "10.0.0.7", "127.0.0.1", "8.8.8.8", "255.255.255.0", "::1",
        "172.217.0.0/16", "987-65-4320", "000-12-3456", "666-12-3456",
        # something else
        "a@b", "@decorator.name", "user@localhost", "x @ y.com", "5@3.2", "123-456-7890",
        "2021-05-1234", "x = 5 +123456789", "978-3-16-148410-0", "1999-2000-2001", "10-20-3000",
        "4158675309", "+5 and +7 and +12", "3.141-592-6535", "1234567890123456",
        "4532015112830367", "0.4532015112830366", "ISBN 9783161484100", "9007199254740992",
        "4 5 3 2 0 1 5 1 1 2 8 3 0 3 6 6", "2020-12-2020", "123-45-67890",
        "DE00123456789012345678", "AB12CDEFGHIJKLM", "version 1.2.3.4", "999.1.1.1",
        "std::vector", "12:30:45",
    ],
)  # fmt: skip
def test_left_alone(text: str) -> None:
    assert find_personal(text, frozenset(PERSONAL_KINDS)) is None


@pytest.mark.parametrize("unit", ["1 ", "a.", "a@", "(", "+1", "1-", "ABCD ", "2001:", "1.1."])
def test_time_is_linear(unit: str) -> None:
    start = time.process_time()
    find_personal("DE12 " + unit * 30_000 + "@", frozenset(PERSONAL_KINDS))
    assert time.process_time() - start < 2
