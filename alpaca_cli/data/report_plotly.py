"""plotly.js inside the report page: packed, and allowed to run by its hash alone.

The library is 4.8 MB; compressed and in base64 it is 2 MB. report.js unpacks it and puts it into a
script element, which the page's policy lets run because it names the SHA-256 of exactly this text:
no other script can, whatever the data says.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Library:
    """plotly.js as the page carries it.

    Attributes:
        packed: gzip in base64.
        allowed: its source in a content security policy.
    """

    packed: str
    allowed: str


def load_library() -> Library | None:
    """The installed plotly's library; None when plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    source: str = get_plotlyjs()
    # No time of packing: equal reports are equal files.
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return Library(base64.b64encode(packed).decode(), allowed(source))


def allowed(script: str) -> str:
    """What a content security policy says to let this very script run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
