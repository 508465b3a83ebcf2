"""Security headers, API keys, a rate limit for each client, and other origins that may call the service."""

import contextlib
import hmac
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any

from flask import Flask, Response, g, request
from flask_babel import gettext as _
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_openapi import OpenAPI
from flask_openapi.models import SecurityScheme
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from web.errors import is_api
from web.schemas import Problem
from web.uploads import RETRY_AFTER

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src blob:; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # an answer may hold a photo
}

# The first parts of paths that need no key.
WITHOUT_KEY = {"docs", "health", "metrics", "openapi.json", "ready", "service-worker.js", "static"}
KEY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "password": {"type": "http", "scheme": "basic", "description": "Any user name; the key is the password."},
}


def add_headers(app: Flask) -> None:
    """Security headers on every answer of the app.

    There is no CSRF protection: the service has no sessions and no state that a forged request could use or change.
    """

    @app.after_request
    def add(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def limit_clients(app: Flask) -> None:
    """Refuse (429) more POST requests from one address than ``RATE_LIMIT``."""
    if app.config["PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=app.config["PROXIES"], x_proto=app.config["PROXIES"])  # type: ignore[method-assign]

    @app.after_request  # runs after the limiter's own, which sets the end of its window in each answer
    def correct_retry_after(response: Response) -> Response:
        if response.status_code == 503:
            response.headers["Retry-After"] = str(g.get("retry_after", RETRY_AFTER))
        elif response.status_code != 429:
            response.headers.pop("Retry-After", None)
        return response

    limiter = Limiter(
        client,
        app=app,
        application_limits=[app.config["RATE_LIMIT"]],
        enabled=bool(app.config["RATE_LIMIT"]),
        storage_uri="memory://",
        request_identifier=lambda: request.endpoint or "other",  # else requests of unknown addresses are not limited
        headers_enabled=True,  # Retry-After among them
    )

    @limiter.request_filter
    def costs_nothing() -> bool:  # pages and probes, but not guesses of a key
        keys = app.config["API_KEYS"]
        return request.method != "POST" and not (keys and any(given_keys()) and not has_key(keys))


def client() -> str:
    """The address of the client, or for IPv6, its network: a client has many addresses of one."""
    try:
        address = ip_address(get_remote_address())
    except ValueError:  # a proxy may send any text
        return get_remote_address()
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


def require_keys(app: OpenAPI) -> None:
    """Refuse (401) requests without one of ``API_KEYS``, if there are any.

    A browser asks its user for the key, as the password of HTTP's basic authentication, and sends it from then on.
    """
    if not app.config["API_KEYS"]:
        return
    app.responses["401"] = Problem
    app.security_schemes = KEY_SCHEMES
    app.openapi_extensions["security"] = [{name: []} for name in KEY_SCHEMES]

    @app.before_request
    def check() -> None:
        place = request.path.split("/")[1]
        if place in WITHOUT_KEY or request.method == "OPTIONS" or has_key(app.config["API_KEYS"]):
            return
        scheme = "bearer" if is_api() else "basic"
        raise Unauthorized(
            _("This service needs a key. Ask its operator for one."),
            www_authenticate=WWWAuthenticate(scheme, {"realm": "Captioner"}),
        )


def has_key(keys: list[str]) -> bool:
    """Whether the request carries one of the keys. The comparison takes the same time for every key."""
    return sum(hmac.compare_digest(one.encode(), key.encode()) for one in given_keys() for key in keys) > 0


def given_keys() -> list[str]:
    """What the request carries in the places of a key, perhaps empty texts."""
    given = [request.headers.get("X-API-Key", "")]
    with contextlib.suppress(ValueError):  # Werkzeug's, for letters that are not ASCII
        if request.authorization:
            given += [request.authorization.token or "", request.authorization.password or ""]
    return given


def allow_origins(app: Flask) -> None:
    """Let the pages of ``ALLOWED_ORIGINS`` call the service from a browser (CORS)."""

    @app.after_request
    def allow(response: Response) -> Response:
        origins = app.config["ALLOWED_ORIGINS"]
        if origins:
            response.vary.add("Origin")
        if request.headers.get("Origin") in origins:
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-API-Key, X-Request-ID"
            response.headers["Access-Control-Expose-Headers"] = "Location, Retry-After, X-Request-ID"
        return response
