#!/bin/sh
# Sets up everything that `make` needs, once: Debian's libraries, a virtual environment in .venv, the pinned packages.
# A second run finds the stamp and does nothing.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/.ready
wanted=$(cat pyproject.toml constraints.txt tools/set_up.sh | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

# Debian's packages that a bare machine lacks, found by what is missing.
missing=""
need() { case " $missing " in *" $1 "*) ;; *) missing="$missing $1" ;; esac; }

python=$(command -v python3.11 || true)
[ -n "$python" ] || need python3.11
if [ -n "$python" ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then need python3.11-venv; fi
# ldconfig lives in /sbin, which is not on every user's PATH.
libraries=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null || true)
has() { case "$libraries" in *"$1"*) ;; *) need "$2" ;; esac; }
has libGL.so.1 libgl1               # opencv-python, open3d
has libgthread-2.0.so.0 libglib2.0-0 # opencv-python
has libEGL.so.1 libegl1             # open3d
has libusb-1.0.so.0 libusb-1.0-0    # open3d
missing=${missing# }

if [ -n "$missing" ]; then
    install="apt-get update && apt-get install -y --no-install-recommends $missing"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Debian packages: $missing"
        # shellcheck disable=SC2086  # a list of packages
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing; } >/dev/null
    elif command -v sudo >/dev/null && command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        echo "Installing Debian packages with sudo: $missing"
        # shellcheck disable=SC2086
        { sudo apt-get -qq update && sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing; } >/dev/null
    else
        echo "Bevel needs system packages that only an administrator can install; run: sudo sh -c '$install'" >&2
        exit 1
    fi
    python=$(command -v python3.11)
fi

echo "Setting up .venv (about 4 GB; three to ten minutes, once)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch first and by its exact version: with an open range the resolver may bring a build for another CUDA.
echo "  1 of 2: torch"
.venv/bin/python -m pip install -qq --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
echo "  2 of 2: everything else; the longer part"
.venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
echo "$wanted" >"$stamp"
