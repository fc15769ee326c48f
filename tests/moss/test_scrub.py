import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.scrub import scrub


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mail jane.doe+x@mail.example.org now", "Mail <email> now"),
        ("发到jane_d@qq.com谢谢", "发到<email>谢谢"),
        ("ｊａｎｅ＠ｅｘａｍｐｌｅ．ｏｒｇ", "<email>"),
        ("jane [at] example [dot] org", "<email>"),
        ("打13812345678找我", "打<phone>找我"),
        ("打１３８１２３４５６７８找我", "打<phone>找我"),
        ("打+86 138-1234-5678找我", "打<phone>找我"),
        ("手机：(86)13812345678。", "手机：<phone>。"),
        ("0086 19912345678", "<phone>"),
        ("座机010-62781234转8", "座机<phone>转8"),
        ("座机(0755) 8612-3456", "座机<phone>"),
        ("call +44 20 7946 0958", "call <phone>"),
        ("call +442079460958", "call <phone>"),
        ("call (555) 123-4567 today", "call <phone> today"),
        ("call 1 555 123-4567 or", "call <phone> or"),
        ("call 555.123.4567.", "call <phone>."),
        ("call 555.123.4567 now", "call <phone> now"),
        ("身份证11010519491231002X。", "身份证<id>。"),
        ("110105 19491231 002x", "<id>"),
        ("身份证号码是110105491231002", "身份证号码是<id>"),
        ("my ID card: 110105194912310021", "my ID card: <id>"),
        ("SSN 219-09-9999", "SSN <id>"),
        ("card 4111 1111 1111 1111 exp", "card <card> exp"),
        ("卡号6222020200112233115", "卡号<card>"),
        ("amex 3782-822463-10005", "amex <card>"),
        ("from 8.8.4.4.", "from <ip>."),
        ("ssh root@81.2.69.142", "ssh <email>"),
        ("host 2001:4860:4860::8888 up", "host <ip> up"),
        ("mac 3c:22:fb:9a:01:7e", "mac <mac>"),
        ("车牌京A·12345在", "车牌<plate>在"),
        ("护照号码：E12345678", "护照号码：<passport>"),
        ("my passport number is AB1234567", "my passport number is <passport>"),
        ("加我QQ：123456789", "加我QQ：<account>"),
        ("微信号: wang_wu2000", "微信号: <account>"),
        ("git clone https://me:hunter2@git.example.org/x", "git clone https://<password>@git.example.org/x"),
        ("key sk-proj-abcdefghij0123456789", "key <key>"),
        ("token ghp_abcdefghijklmnopqrst0123", "token <key>"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK", "jwt <key>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nok", "<key>\nok"),
    ],
)  # fmt: skip
def test_personal_data_is_replaced(text: str, clean: str) -> None:
    assert scrub(text) == (clean, clean.count("<"))


@pytest.mark.parametrize(
    "text",
    [
        "What is 37*43+5?",
        "Solve 3x+4=19.",
        "2024-05-01 was a holiday",
        "2024-05-01 12:30:45 and 20240501123045",
        "Version 1.10.3 of the tool, build 10.0.19041.1",
        "987654321+123456789等于多少?",
        "12345678901234567890-1",
        "x^2-5x+6=0",
        "1+12345678901",
        "110105194912310021",  # a wrong check digit, and not called an identity number
        "11010519491331002X",  # no such month
        "4111111111111112 fails Luhn",
        "listen on 127.0.0.1, 10.0.0.1, 192.168.1.5 or ::1",
        "std::vector<int> and a::b::c",
        "pi is 3.14159265358979",
        "timestamp 1700000000000",
        "ISBN 978-7-111-12345-6",
        "列表[1:2:3]和京都A座",
        "my passport expired in 2024",
        "QQ是什么？微信好用吗？",
        "the rate is 0.1234-5678",
    ],
)
def test_numbers_that_are_no_personal_data_stay(text: str) -> None:
    assert scrub(text) == (text, 0)


def luhn_digit(digits: str) -> str:
    """The digit that makes the sum a multiple of ten, by trying all ten."""
    for last in "0123456789":
        total = 0
        for place, digit in enumerate(reversed(digits + last)):
            value = int(digit) * (2 if place % 2 else 1)
            total += value // 10 + value % 10
        if total % 10 == 0:
            return last
    raise AssertionError


def test_every_payment_card_is_found_and_every_mistyped_one_is_not() -> None:
    draw = random.Random(1)
    for prefix, length in (("4", 16), ("53", 16), ("37", 15), ("62", 16), ("62", 19), ("6011", 16)):
        for _ in range(50):
            digits = prefix + "".join(
                draw.choice("0123456789") for _ in range(length - 1 - len(prefix))
            )
            card = digits + luhn_digit(digits)
            assert scrub(f"卡 {card}。") == ("卡 <card>。", 1), card
            place = draw.randrange(len(prefix), length)
            other = draw.choice([digit for digit in "0123456789" if digit != card[place]])
            wrong = card[:place] + other + card[place + 1 :]
            assert "<card>" not in scrub(f"卡 {wrong}。")[0], wrong


def test_every_resident_identity_number_is_found_and_every_mistyped_one_is_not() -> None:
    draw = random.Random(2)
    for _ in range(200):
        birth = f"{draw.randint(1950, 2015)}{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}"
        digits = f"{draw.randint(110000, 659004)}{birth}{draw.randint(0, 999):03d}"
        # ISO 7064, mod 11-2, in its recursive form: the weights are powers of two.
        rest = 0
        for digit in digits:
            rest = (rest + int(digit)) * 2 % 11
        check = "0123456789X"[(12 - rest) % 11]
        assert scrub(f"号码{digits}{check}") == ("号码<id>", 1)
        wrong = draw.choice([value for value in "0123456789X" if value != check])
        assert "<id>" not in scrub(f"号码{digits}{wrong}")[0]


@given(st.text() | st.from_regex(r"[0-9+@. :()A-Fx-]{0,60}", fullmatch=True))
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    clean, _ = scrub(text)
    assert scrub(clean) == (clean, 0)


def test_hostile_text_of_20_000_characters_takes_under_a_second() -> None:
    for piece in ("1", "1 ", "a@", "a.", "0:", "eyJ", "+1-", "护照 ", "微信 ", "-----BEGIN "):
        started = time.process_time()
        scrub(piece * (20_000 // len(piece)))
        assert time.process_time() - started < 1, piece
