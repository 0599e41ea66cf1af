# SPDX-License-Identifier: Apache-2.0
"""Text of containers, made fit for people's screens, for HTML, SVG and Graphviz."""

from __future__ import annotations

__all__ = ["count", "dot_string", "markup", "one_line", "printable", "shortened"]


def one_line(text: str) -> str:
    r"""
    Put text on one line, with nothing on it that a terminal obeys.

    >>> one_line("a\n b\r\x1b[2J")
    'a b \\x1b[2J'
    """
    return text if text.isprintable() else printable(" ".join(text.split()))


def printable(text: str) -> str:
    r"""
    Spell what has no shape of its own as its bytes in hexadecimal, as `mountcr.paths` does.

    Names of files may hold control characters, which terminals obey and XML forbids, and marks that
    turn the direction of writing around. What comes out decodes to the same bytes.

    >>> printable("/tmp/\x1b[2J")
    '/tmp/\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _spelled(each) for each in text)


def _spelled(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def count(number: int, one: str, many: str = "") -> str:
    """
    Say how many there are; `many` is for words that take no s.

    >>> count(1, "task"), count(2, "loss", "losses")
    ('1 task', '2 losses')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def shortened(text: str, length: int = 40) -> str:
    """
    Leave out the middle of what is longer than a number of characters.

    >>> shortened("/docker/0123456789abcdef/hosts", 20)
    '/docker/0…cdef/hosts'
    """
    if len(text) <= length:
        return text
    end = length // 2
    return f"{text[: length - end - 1]}…{text[-end:]}"


_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def markup(text: str) -> str:
    """Give text for HTML and SVG, for attributes too."""
    return printable(text).translate(_MARKUP)


_DOT = str.maketrans({"\\": "\\\\", '"': '\\"', "&": "&amp;"})


def dot_string(*lines: str) -> str:
    r"""
    Give lines as one quoted string of Graphviz's language, each flush left.

    Graphviz undoes HTML's entities in a label, whence `&amp;`.

    >>> print(dot_string('a "b"', r"c\040d"))
    "a \"b\"\lc\\040d\l"
    """
    if len(lines) == 1:
        return f'"{printable(lines[0]).translate(_DOT)}"'
    return '"' + "".join(f"{printable(line).translate(_DOT)}\\l" for line in lines) + '"'
