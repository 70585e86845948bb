"""bcrypt in plain Python, since no Python brings it along any more.

It is slow on purpose, and slower here: about 0.1 s at cost 5, which ``htpasswd -B``
takes, and twice that for each step above it.
(Provos and Mazières, A Future-Adaptable Password Scheme, 1999; the ``2y`` form.)
"""

from __future__ import annotations

import functools
import hmac
import re
from typing import Sequence

HIGHEST_COST = 10
"""The cost up to which one check takes seconds, not minutes."""

_HASH = re.compile(r"\$2[aby]\$(\d\d)\$([./A-Za-z0-9]{22})([./A-Za-z0-9]{31})")
_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TEXT = b"OrpheanBeholderScryDoubt"
_WORD = 0xFFFFFFFF

Boxes = list[list[int]]


def cost_of(stored: str) -> int | None:
    """The cost of a hash as it stands in a password file; None when it is none."""
    match = _HASH.fullmatch(stored)
    return int(match[1]) if match and 4 <= int(match[1]) <= 31 else None


def is_password(password: bytes, stored: str) -> bool:
    """Whether *password* has the hash *stored*, of which `cost_of` knows the cost."""
    match = _HASH.fullmatch(stored)
    if match is None or b"\0" in password:
        return False
    found = _hash(password, _decode(match[2])[:16], int(match[1]))
    return hmac.compare_digest(found, _decode(match[3])[:23])


def _hash(password: bytes, salt: bytes, cost: int) -> bytes:
    key = _words((password + b"\0")[:72], 18)
    salt_key, salt_words = _words(salt, 18), _words(salt, 4)
    initial, initial_boxes = _pi_words()
    subkeys, boxes = list(initial), [list(box) for box in initial_boxes]
    _expand(subkeys, boxes, key, salt_words)
    for _ in range(1 << cost):
        _expand(subkeys, boxes, key, (0, 0))
        _expand(subkeys, boxes, salt_key, (0, 0))
    text = _words(_TEXT, 6)
    for at in (0, 2, 4):
        left, right = text[at], text[at + 1]
        for _ in range(64):
            left, right = _encrypt(subkeys, boxes, left, right)
        text[at : at + 2] = left, right
    return b"".join(word.to_bytes(4, "big") for word in text)[:23]


def _words(content: bytes, count: int) -> list[int]:
    """*count* words of *content*, which is repeated as often as needed."""
    content *= count * 4 // len(content) + 1
    return [
        int.from_bytes(content[at : at + 4], "big") for at in range(0, count * 4, 4)
    ]


def _expand(
    subkeys: list[int], boxes: Boxes, key: Sequence[int], salt: Sequence[int]
) -> None:
    """Blowfish's key schedule, with a salt of two or four words mixed in."""
    subkeys[:] = [subkey ^ word for subkey, word in zip(subkeys, key)]
    left = right = position = 0
    for table in (subkeys, *boxes):
        for at in range(0, len(table), 2):
            left ^= salt[position]
            right ^= salt[position + 1]
            position = (position + 2) % len(salt)
            left, right = _encrypt(subkeys, boxes, left, right)
            table[at], table[at + 1] = left, right


def _encrypt(
    subkeys: Sequence[int], boxes: Boxes, left: int, right: int
) -> tuple[int, int]:
    """One block of Blowfish, two rounds at a time."""
    first, second, third, fourth = boxes
    left ^= subkeys[0]
    for at in range(1, 17, 2):
        half = first[left >> 24] + second[left >> 16 & 255]
        half = (half ^ third[left >> 8 & 255]) + fourth[left & 255]
        right ^= (half & _WORD) ^ subkeys[at]
        half = first[right >> 24] + second[right >> 16 & 255]
        half = (half ^ third[right >> 8 & 255]) + fourth[right & 255]
        left ^= (half & _WORD) ^ subkeys[at + 1]
    return right ^ subkeys[17], left


@functools.lru_cache(maxsize=1)
def _pi_words() -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Blowfish's first subkeys and boxes: the fraction of pi, 32 bits at a time."""
    count = 18 + 4 * 256
    bits = 32 * count + 64
    fraction = 4 * (4 * _arctangent(5, bits) - _arctangent(239, bits)) - (3 << bits)
    words = [fraction >> (bits - 32 * number) & _WORD for number in range(1, count + 1)]
    boxes = (tuple(words[at : at + 256]) for at in range(18, count, 256))
    return tuple(words[:18]), tuple(boxes)


def _arctangent(divisor: int, bits: int) -> int:
    """The arctangent of 1/*divisor*, times 2**bits (Gregory's series)."""
    term = total = (1 << bits) // divisor
    sign, odd = 1, 1
    while term:
        term //= divisor * divisor
        sign, odd = -sign, odd + 2
        total += sign * (term // odd)
    return total


def _decode(text: str) -> bytes:
    """The bytes of bcrypt's own base 64: six bits a letter, from the top."""
    bits = functools.reduce(
        lambda done, letter: done << 6 | _ALPHABET.index(letter), text, 0
    )
    size = len(text) * 6 // 8
    return (bits >> (len(text) * 6 - size * 8)).to_bytes(size, "big")
