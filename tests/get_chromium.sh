#!/bin/sh
# Installs Debian's Chromium for the browser tests, where that is possible without asking anybody.
# Where it is not, the browser tests are skipped, and pytest says so.
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && exit 0
done
[ -n "$CHROMIUM" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "No Chromium and no apt-get here: the browser tests will be skipped."
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "No Chromium, and no right to install it (apt-get install chromium): the browser tests will be skipped."
    exit 0
fi
echo "Installing Debian's chromium for the browser tests"
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null ||
    echo "chromium could not be installed: the browser tests will be skipped."
exit 0
