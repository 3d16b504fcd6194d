#!/bin/sh
# The report's test opens it in a real browser. Debian and Ubuntu: installed here when missing and when root.
set -e
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing chromium and chromium-driver for the report's test"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null
else
    echo "The report's test needs the commands chromium and chromedriver; install them with your package manager." >&2
fi
