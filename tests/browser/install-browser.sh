# Gets a browser for the tests; without one they are skipped and say so.
# The headless shell takes two thirds of the processor time of the whole Chromium.
command -v chromium-headless-shell >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium-headless-shell >/dev/null && exit 0
fi
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
.venv/bin/python -m playwright install chromium ||
    echo "no browser could be installed: the browser tests will be skipped"
