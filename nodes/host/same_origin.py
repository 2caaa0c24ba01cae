"""Whether a request comes from a page of this host, or from another site's page in the same browser."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

_OWN_SITE = ("same-origin", "none")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def from_this_host(request: web.Request) -> bool:
    """False for a request of another origin's page.

    What the browser itself says counts (``Sec-Fetch-Site``), as behind a proxy the host's own name may be another one.
    Where it says nothing, ``Origin`` has to name the host that was asked. Programs that are no browsers send neither.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site.lower() in _OWN_SITE
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        named, asked = urlsplit(origin), urlsplit(f"//{request.headers.get('Host', '')}")
        port = _DEFAULT_PORTS.get(named.scheme)
        return (
            port is not None
            and named.hostname is not None
            and (named.hostname, named.port or port) == (asked.hostname, asked.port or port)
        )
    except ValueError:  # a port that is no number
        return False
