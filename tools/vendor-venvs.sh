#!/bin/sh
# Makes the virtual environments that tests/interop drives, below .venvs/: the unmodified vendor clients (two, because the
# gateway pins an older release of the client) and the linter of certificates. Run again it costs nothing. Without the
# package index these tests are skipped; where CI is set that is a failure.
set -eu
python="${1:-python3}"
cd "$(dirname "$0")/.."

vendor_venv() {
    venv=".venvs/$1"
    shift
    [ "$(cat "$venv/.installed" 2>/dev/null)" = "$*" ] && return
    rm -rf "$venv"
    mkdir -p .venvs
    if "$python" -m venv "$venv" >"$venv.log" 2>&1 && "$venv/bin/python" -m pip install \
        --quiet --disable-pip-version-check --retries 1 --timeout 20 "$@" >>"$venv.log" 2>&1; then
        echo "$*" >"$venv/.installed"
        return
    fi
    echo "$* cannot be installed: $(tail -n 1 "$venv.log"); tests/interop will be skipped (see $venv.log)" >&2
    [ -z "${CI:-}" ] || exit 1
}

vendor_venv thingsboard-gateway thingsboard-gateway==3.8.5
# mmh3 is what this client would otherwise install by itself when it is first imported.
vendor_venv tb-mqtt-client tb-mqtt-client==1.13.14 mmh3==5.3.1
vendor_venv pkilint pkilint==0.13.3
