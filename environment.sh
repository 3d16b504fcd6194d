#!/bin/sh
# Sets up a virtual environment and says what it is at: sh environment.sh VENV PYTHON [EXTRAS]
# On a terminal one line that is written over and over, elsewhere a line every half minute. pip's own words are kept in
# VENV/install.log and shown where it fails.
set -eu
venv=$1 python=$2 extras=${3:-}
log=$venv/install.log
started=$(date +%s)

say() { printf '%-12s %s\n' environment "$1"; }
clock() { seconds=$(($(date +%s) - started)); printf '%d:%02d' $((seconds / 60)) $((seconds % 60)); }
# What pip is at: the package that it looks up, fetches or installs.
doing() {
    line=$(grep -E '^ *(Collecting|Downloading|Using cached|Building wheels|Installing collected)' "$log" | tail -n 1)
    line=$(printf '%s' "$line" | sed -E 's/^ +//; s/(Installing collected packages).*/unpacking all of them, the longest part/; s/-[^ ]*\.(whl|tar\.gz)//; s/[<>=!~;].*//')
    printf '%.56s' "${line:-starting}"
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed, and $python is $("$python" -V 2>&1). Name another: make PYTHON=python3.12 ..." >&2
    exit 1
}
if [ ! -x "$venv/bin/python" ]; then
    say "making $venv with $("$python" -V 2>&1)"
    "$python" -m venv "$venv"
fi
say "installing mm-icl, mostly PyTorch: 2 to 10 minutes the first time"
"$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -e ".${extras:+[$extras]}" >"$log" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null; echo; say "stopped; the same command goes on"; exit 130' INT TERM
turn=0
while kill -0 $pid 2>/dev/null; do
    sleep 1
    turn=$((turn + 1))
    if [ -t 1 ]; then
        printf '\r\033[K%-12s %s  %s' environment "$(clock)" "$(doing)"
    elif [ $((turn % 30)) = 0 ]; then
        say "$(clock)  $(doing)"
    fi
done
[ ! -t 1 ] || printf '\r\033[K'
if ! wait $pid; then
    tail -n 12 "$log" >&2
    say "pip could not install what is needed; the end of its words is above, all of them are in $log" >&2
    exit 1
fi
say "$venv ready in $(clock) ($("$venv/bin/python" -c 'from importlib.metadata import version as v; print("torch", v("torch") + ", transformers", v("transformers"))'))"
