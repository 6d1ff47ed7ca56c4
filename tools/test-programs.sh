#!/bin/sh
# Installs the programs of Debian that some tests drive, when we may; otherwise says what is missing.
packages="openssl mosquitto mosquitto-dev libmosquitto-dev libsqlite3-dev libssl-dev uthash-dev gcc make"
there() { command -v "$1" >/dev/null || [ -e "$1" ]; }
there openssl && there /usr/sbin/mosquitto && there gcc && there make && there /usr/include/mosquitto_broker.h &&
    there /usr/include/sqlite3.h && there /usr/include/openssl/hmac.h && there /usr/include/uthash.h && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq $packages >/dev/null && exit 0
fi
echo "tests with openssl or Mosquitto are skipped; run as root: apt-get install $packages" >&2
[ -z "${CI:-}" ]
