#!/bin/sh
# Makes sure that "$1" can make virtual environments: installs Debian's package when we may, else says what to install.
python="$1"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "mqttprov needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1). Run: make PYTHON=python3.11" >&2
    exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv && exit 0
fi
echo "'$python' cannot make virtual environments. Run as root: apt-get install python3-venv" >&2
exit 1
