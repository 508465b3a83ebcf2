"""Security headers, a rate limit for each client, and other origins that may call the service."""

from flask import Flask, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.middleware.proxy_fix import ProxyFix

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # an answer may hold a photo
}


def add_headers(app: Flask) -> None:
    """Security headers on every answer.

    There is no CSRF protection: the service has no sessions and no state that a forged request could use or change.
    """

    @app.after_request
    def add(response):
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def limit_clients(app: Flask) -> None:
    """Refuse (429) more requests with photos from one address than ``RATE_LIMIT``."""
    if app.config["PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=app.config["PROXIES"], x_proto=app.config["PROXIES"])
    limiter = Limiter(
        get_remote_address,
        app=app,
        application_limits=[app.config["RATE_LIMIT"]],
        enabled=bool(app.config["RATE_LIMIT"]),
        storage_uri="memory://",
        headers_enabled=True,  # Retry-After among them
    )
    limiter.request_filter(lambda: request.method != "POST")  # pages and probes cost nothing


def allow_origins(app: Flask) -> None:
    """Let the pages of ``ALLOWED_ORIGINS`` call the service from a browser (CORS)."""

    @app.after_request
    def allow(response):
        origins = app.config["ALLOWED_ORIGINS"]
        if origins:
            response.vary.add("Origin")
        if request.headers.get("Origin") in origins:
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type"
            response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-ID"
        return response
