"""Text from a file, safe to show: nothing in it moves a cursor, hides or turns other text."""


def printable(text: str) -> str:
    """`text` with what is not printable as escapes.

    Escaped are control and format characters (of which ANSI sequences, line ends and the marks of
    right-to-left text are made), lone surrogates, and every space but the plain one.

    >>> print(printable("a\\x1b[31mb\\nc\\u202ed"))
    a\\x1b[31mb\\nc\\u202ed
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
