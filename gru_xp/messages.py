"""Text from files and libraries in messages."""

from __future__ import annotations

_LONGEST_REASON = 300
"""Maximum number of characters of a reason."""


def printable(text: str, /) -> str:
    """Return a text as one line, with control characters shown as in a Python string.

    Such characters are, for example, a line break or the escape character of a terminal.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def reason_of(error: Exception, /) -> str:
    """Return the message of an error as one printable line, or its type's name if that is too long.

    A message may contain names from the file that was read.
    """
    text = printable(str(error)[: _LONGEST_REASON + 1])  # the original may be as long as the file
    return text if 0 < len(text) <= _LONGEST_REASON else type(error).__name__
