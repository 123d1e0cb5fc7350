#!/usr/bin/env bash
# All that a machine with a CUDA GPU can tell of this package, into a folder of text and JSON files:
#
#     backends/cupy/gpu_proof.sh FOLDER
#
# In a virtual environment that has: pip install ".[cuda13,test]" torch ml_dtypes, torch for CUDA;
# jax[cuda13] for its part of the tests; scikit-build-core nanobind cmake ninja to build. On the PATH:
# compute-sanitizer, of the CUDA toolkit. A part that fails, or takes longer than LIMIT seconds (3600),
# is recorded in FOLDER/summary.txt and the rest goes on. Exit status 0: all parts passed.
set -uo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
# Without these nothing of it can be shown.
command -v nvidia-smi >/dev/null || { echo "$0: there is no nvidia-smi, and so no GPU" >&2; exit 2; }
python -c 'import cupy, nanobind, scikit_build_core' >/dev/null || exit 2
mkdir -p "$1" && folder=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/../.." || exit 2

export XLA_PYTHON_CLIENT_PREALLOCATE=false # JAX would take most of the memory that the others need
limit=${LIMIT:-3600}
failed=0
: >"$folder/summary.txt"

part() { # NAME COMMAND...: output into NAME.txt, a line into the summary
    local name=$1 began=$SECONDS status=0
    shift
    # A kernel that waits for ever must not keep the rest from running.
    timeout --kill-after=30 "$limit" "$@" >"$folder/$name.txt" 2>&1 </dev/null || status=$?
    [ "$status" -eq 0 ] || failed=1
    printf '%-24s %s\n' "$name" "status $status, $((SECONDS - began)) s: $*" |
        tee -a "$folder/summary.txt"
}

date -u +%Y-%m-%dT%H:%MZ >"$folder/date.txt"
git rev-parse HEAD >"$folder/commit.txt" 2>/dev/null || true
git status --short >>"$folder/commit.txt" 2>/dev/null || true
part gpu nvidia-smi
part gpu-driver nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.max.sm,clocks.max.mem \
    --format=csv

part install pip install --no-build-isolation --no-deps .
part versions pip list
part info gru-xp info
part check gru-xp check
part tests-cuda python -m pytest tests/test_cuda_*.py
part tests-cupy python -m pytest --backend cupy
# From here on also the kernel that may hang.
part tests-persistent env GRU_XP_PERSISTENT_KERNEL=1 python -m pytest --backend cupy
for path in steps persistent; do
    for tool in memcheck racecheck synccheck; do
        part "$tool-$path" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            python backends/cupy/gpu_paths.py "$path"
    done
done
for precision in float32 tf32 float16 bfloat16 float64; do
    part "bench-$precision" gru-xp bench --backend cupy --peers torch --precision "$precision" \
        --json "$folder/bench-$precision.json"
done

exit "$failed"
