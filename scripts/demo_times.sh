#!/bin/sh
# Times the demo on this machine, which nothing else should use: `make demo` in a fresh clone, installing included, then
# `tutelage demo` alone, and beside a program that keeps the first core busy.
#
#   sh scripts/demo_times.sh FOLDER docs/results/demo/times.csv
#
# FOLDER gets the clone (of the last commit) and the runs of all three; it must not exist.
set -eu
folder=$1 times=$2
commit=$(git rev-parse --short HEAD)
git clone -q "$(git rev-parse --show-toplevel)" "$folder/clone"
folder=$(cd "$folder" && pwd)
echo "what,seconds,cores,date,commit" > "$times"

timed() { # what, command ...
    what=$1
    shift
    begun=$(date +%s)
    "$@" > "$folder/$what.log" 2>&1
    echo "$what,$(($(date +%s) - begun)),$(nproc),$(date +%F),$commit" >> "$times"
}

timed make_demo make -C "$folder/clone" demo
timed demo "$folder/clone/.venv/bin/tutelage" demo --runs "$folder/alone"
taskset -c 0 python3 -c "while True: pass" &
trap 'kill $!' EXIT
timed demo_beside_a_busy_program "$folder/clone/.venv/bin/tutelage" demo --runs "$folder/beside"
