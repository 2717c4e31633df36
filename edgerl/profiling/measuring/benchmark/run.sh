#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures policy.bin on this machine and prints one JSON object: sh run.sh > result.json
#
# Needs a POSIX shell, and a program of this folder that fits the machine, or a C compiler (CC, cc, gcc or clang). Where
# edgerl is installed, its runtimes are measured too; EDGERL names the command if it is not in the PATH.
# Exit codes: 0 measured; 64 to 78 not, and one line says why.
set -u
unset CDPATH
here=$(dirname -- "$0")
cd -- "$here" || exit 66

fail() {
    code=$1
    shift
    printf 'edgerl-benchmark: %s\n' "$*" >&2
    exit "$code"
}

# A program that begins to run says that it wants a policy (64); one for another machine does not.
starts() {
    "$@" >/dev/null 2>&1
    [ $? -eq 64 ]
}

# This script is for every machine: where it may not start, nothing may.
[ "${1-}" = probe ] && exit 64
starts ./run.sh probe ||
    fail 77 "no program may run in $PWD (mounted noexec?): set TMPDIR on this machine to a folder where one may," \
        "or unpack the bundle there"

trap 'rm -f ./benchmark-built' EXIT
trap 'exit 129' HUP INT TERM PIPE

machine=$(uname -m)
case $machine in
x86_64 | amd64) program=./benchmark-x86_64 ;;
aarch64 | arm64) program=./benchmark-aarch64 ;;
armv7* | armv8l) program=./benchmark-armhf ;;
*) program=./benchmark-none ;;
esac

if ! starts "$program"; then
    program=./benchmark-built
    problem='there is no C compiler here (apt-get install gcc)'
    for compiler in "${CC:-cc}" gcc clang; do
        command -v "$compiler" >/dev/null 2>&1 || continue
        problem=$("$compiler" -std=c11 -O3 -ffp-contract=fast -fno-math-errno -o "$program" benchmark.c 2>&1) &&
            problem='what it builds does not start'
        starts "$program" && break
        problem="$compiler cannot build one ($(printf '%s\n' "$problem" | sed -n 1p))"
    done
    starts "$program" || fail 69 "the bundle has no program that runs on this $machine, and $problem"
fi

measured=$("$program" policy.bin 2>&1) ||
    fail 70 "the program fails on this $machine (exit code $?): ${measured#edgerl-benchmark: }"

with_edgerl=null
TMPDIR=$PWD # what onnxruntime leaves there stays here
export TMPDIR
for edgerl in "${EDGERL:-edgerl}" 'python3 -m edgerl'; do
    # shellcheck disable=SC2086 # a command and its arguments
    if answer=$($edgerl profile policy.safetensors --measure --json 2>/dev/null); then
        with_edgerl=$answer
        break
    fi
done

printf '{"format": "edgerl benchmark", "version": 1, "results": [%s, %s]}\n' "$measured" "$with_edgerl"
