#!/bin/sh
# What only a GPU can tell, in one sitting: first `bench-gpu`, then those tests of the engine on the GPU that its memory,
# copies and 8-bit kernels decide. Each part has its own limit of time, so that one that hangs does not cost the others.
#
#     sh benchmarks/gpu/session.sh FOLDER [SECONDS]
#
# FOLDER gets rows.jsonl (a row a line, as it is measured), performance.md (docs/PERFORMANCE.md with the tables, after a
# whole run), tests.xml and the logs. SECONDS: for bench-gpu, 470 by default; the tests take up to 150 more.
# PYTHON: one with torch for the card, the requirements and pytest. BENCH_ARGS, PYTEST_ARGS: further ones of each.
set -u
out=${1:?"sh benchmarks/gpu/session.sh FOLDER [SECONDS]"}
seconds=${2:-470}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
# The checkout may have any name, and the package has one.
site=$(mktemp -d) && trap 'rm -r "$site"' EXIT || exit 1
ln -s "$root" "$site/fluxduel"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
cd "$site/fluxduel" || exit 1

"$python" -c "import torch, fluxduel.training.stages.adversarial_stage; print(torch.__version__, torch.cuda.is_available())" ||
    exit 1

cp docs/PERFORMANCE.md "$out/performance.md"
# shellcheck disable=SC2086
timeout -k 5 $((seconds + 30)) "$python" -m fluxduel.benchmarks.gpu.run --seconds "$seconds" --out "$out/rows.jsonl" \
    --page "$out/performance.md" ${BENCH_ARGS:-} >"$out/rows.log" 2>"$out/rows.err"
echo "bench-gpu: exit $?, $(wc -l <"$out/rows.jsonl") rows"
tail -n 3 "$out/rows.err"

device=${FLUXDUEL_TEST_DEVICE:-cuda}
# shellcheck disable=SC2086
FLUXDUEL_TEST_DEVICE=$device OMP_NUM_THREADS=1 timeout -k 5 150 "$python" -m pytest -p no:cacheprovider --tb=short \
    --durations=5 --junitxml="$out/tests.xml" tests/unit/base/test_ring.py tests/engine/base/test_streaming.py \
    tests/engine/stages/test_formats.py tests/engine/base/test_base_shelf.py ${PYTEST_ARGS:-} >"$out/tests.log" 2>&1
echo "tests on $device: exit $?"
grep -E "^(FAILED|ERROR)|passed|failed" "$out/tests.log" | cut -c1-220
