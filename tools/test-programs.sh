#!/bin/sh
# Installs the programs of Debian that some tests drive, when we may; otherwise says what is missing.
missing=""
# A package is there when the file is that stands for it.
needs() {
    for place in $2; do
        [ -e "$place" ] && return
    done
    missing="$missing $1"
}
needs openssl "/usr/bin/openssl /usr/local/bin/openssl"
needs gcc "/usr/bin/gcc /usr/local/bin/gcc"
needs mosquitto /usr/sbin/mosquitto
needs mosquitto-dev /usr/include/mosquitto_broker.h
needs libmosquitto-dev /usr/include/mosquitto.h
needs libsqlite3-dev /usr/include/sqlite3.h
needs libssl-dev /usr/include/openssl/hmac.h
needs uthash-dev /usr/include/uthash.h
needs chromium /usr/bin/chromium
needs rabbitmq-server /usr/sbin/rabbitmq-server
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # RUNLEVEL=1: of brokers only the programs are wanted, not the services.
    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "tests with these are skipped; run as root: apt-get install$missing" >&2
[ -z "${CI:-}" ]
