#!/bin/sh
# Installs the programs of Debian that some tests drive, when we may; otherwise says what is missing.
command -v openssl >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq openssl >/dev/null && exit 0
fi
echo "tests with openssl are skipped; run as root: apt-get install openssl" >&2
[ -z "${CI:-}" ]
