# The app with its model. It starts with a read-only root (Keras unpacks the model in /dev/shm) and without a network:
#     docker build -t captioner . && docker run --read-only --init -p 8000:8000 captioner
FROM python:3.12-slim AS build
WORKDIR /app
COPY requirements.txt .
# The last section of requirements.txt is for the notebooks only.
RUN sed '/for the notebooks/,$d' requirements.txt > app.txt \
    && python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir -r app.txt

FROM python:3.12-slim
RUN useradd --uid 1000 --no-create-home captioner
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY *.py MODEL_CARD.md ./
COPY captioning captioning
COPY templates templates
COPY static static
COPY translations translations
COPY artifacts artifacts
RUN .venv/bin/python -m compileall -q ./*.py captioning
ENV PATH=/app/.venv/bin:$PATH HOME=/tmp TMPDIR=/dev/shm MPLCONFIGDIR=/dev/shm HOST=0.0.0.0 PORT=8000 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health')"]
# exec: the server is the process that docker stop sends SIGTERM to.
CMD ["sh", "-c", "exec python app.py --host \"$HOST\" --port \"$PORT\""]
