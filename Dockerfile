# The app with its model. It needs no network and writes only clips, to /tmp:
#     docker build -t captioner .
#     docker run --rm --init --read-only --tmpfs /tmp:size=1g --cpus 2 --memory 4g --pids-limit 1000 --cap-drop ALL \
#         --security-opt no-new-privileges --stop-timeout 50 -p 127.0.0.1:8000:8000 captioner
FROM python:3.12-slim AS build
WORKDIR /build
COPY requirements-serve.lock ./
RUN python -m venv --without-pip /app/.venv \
    && python -m pip --python /app/.venv install --no-cache-dir --require-hashes -r requirements-serve.lock
# .dockerignore names the files that serve; everything else stays out.
COPY . .
# A clone may be readable by its owner only.
RUN chmod -R a+rX . && python -m compileall -q --invalidation-mode unchecked-hash ./*.py captioning web

FROM python:3.12-slim
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY --from=build /build ./
ENV PATH=/app/.venv/bin:$PATH HOST=0.0.0.0 PORT=8000 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health')"]
# exec: the server is the process that gets SIGTERM and SIGHUP.
CMD ["sh", "-c", "exec python app.py --host \"$HOST\" --port \"$PORT\""]
