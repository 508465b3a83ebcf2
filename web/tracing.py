"""Traces for OpenTelemetry: a request, and in it the reading of each photo and the wait for each caption."""

import os
from contextlib import AbstractContextManager, nullcontext

from flask import Flask, current_app

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
WITHOUT_TRACE = "/health$,/ready$,/metrics$,/static/"  # regular expressions


def add_tracing(app: Flask) -> None:
    """Send traces by OTLP over HTTP, if one of `SWITCHES` says where to.

    OpenTelemetry reads all its settings from ``OTEL_…`` variables itself. Without `SWITCHES` it is not even imported.

    Raises:
        ValueError: the packages are not installed.
    """
    if not any(map(os.environ.get, SWITCHES)):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.flask import FlaskInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_… is set, but {error.name} is not installed. "
            "pip install opentelemetry-exporter-otlp-proto-http opentelemetry-instrumentation-flask"
        ) from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider, excluded_urls=WITHOUT_TRACE)
    app.extensions["tracer"] = provider.get_tracer("captioner")


def span(name: str) -> AbstractContextManager:
    """A part of the request's trace; nothing if there is none."""
    tracer = current_app.extensions.get("tracer")
    return tracer.start_as_current_span(name) if tracer else nullcontext()
