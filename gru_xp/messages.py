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
    """Return the message of an error as one printable line, cut off if it is long.

    A message may contain names from the file that was read. An error without a message gives the
    name of its type.
    """
    text = printable(str(error)[: _LONGEST_REASON + 1])  # the original may be as long as the file
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON]}..."
    return text or type(error).__name__
