#!/usr/bin/env bash
# Instructions per call of the rings, by callgrind: two runs of different length,
# and the difference between them.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is needed" >&2; exit 1; }
cargo build --release -q -p bench-kit --example instructions
program=target/release/examples/instructions
collected() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        awk '/Collected/ { print $4 }'
}
for call in $("$program"); do
    few=$(collected "$call" 1000) many=$(collected "$call" 11000)
    awk -v call="$call" -v n=$((many - few)) 'BEGIN { printf "%-36s %7.1f\n", call, n / 10000 }'
done
