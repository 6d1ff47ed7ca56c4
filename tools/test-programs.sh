#!/bin/sh
# Installs the programs of Debian that some tests drive, when we may; otherwise says what is missing.
missing=""
command -v openssl >/dev/null || missing="$missing openssl"
command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ] || missing="$missing rabbitmq-server"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # RUNLEVEL=1: the package's own broker is not wanted, only its program.
    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "tests with these are skipped; run as root: apt-get install$missing" >&2
[ -z "${CI:-}" ]
