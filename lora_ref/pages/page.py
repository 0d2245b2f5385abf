"""A report as one HTML page: no script, no network, readable in light and dark."""

from collections.abc import Iterable
from html import escape

from .printable import printable
from .style import STYLE

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, body: Iterable[str]) -> bytes:
    """A self-contained page in UTF-8, from the HTML of its parts."""
    whole = PAGE.format(title=as_text(title), style=STYLE, body="\n".join(body))
    return whole.encode("utf-8", "backslashreplace")


def as_text(value: object) -> str:
    """Any value as HTML text: escaped, and with nothing in it that hides or turns other text.

    >>> as_text("<b>\\x1b[0m")
    '&lt;b&gt;\\\\x1b[0m'
    """
    return escape(printable(str(value)))


def as_name(name: str) -> str:
    """A dotted name as HTML that may be broken after its dots."""
    return as_text(name).replace(".", ".<wbr>")


def badge(status: str) -> str:
    """A verdict in its colour."""
    return f'<span class="badge {as_text(status)}">{as_text(status)}</span>'


def table(columns: Iterable[tuple[str, bool]], rows: Iterable[str]) -> str:
    """A table from its column titles, each with whether it is numeric, and its rows' HTML."""
    head = "".join(f"<th{' class=n' if numeric else ''}>{title}</th>" for title, numeric in columns)
    body = "".join(rows)
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
