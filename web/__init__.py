"""The web side: page, API, uploads, metrics and server. `app.create_app` puts it together."""
