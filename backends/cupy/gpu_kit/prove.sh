#!/usr/bin/env bash
# What a machine with a CUDA GPU can tell of this package, a part at a time:
#
#     backends/cupy/gpu_kit/prove.sh PART KIT OUT
#
# truth: values of every dtype on both paths against float64, the tests of large sizes, and
#        compute-sanitizer's four tools over small cases;
# speed: constants of the device, the loop alone, whole layers beside torch's cuDNN in the same mode;
# rest:  the other sizes, `gru-xp train`, a report of the persistent kernel by Nsight Compute.
#
# KIT is the folder that `prepare.sh` made; nothing is fetched or compiled for the host here. PYTHON
# (python3) has CuPy, NumPy, torch for CUDA, ml_dtypes, pytest and what gru-xp[cli] names; on the PATH are
# nvidia-smi, compute-sanitizer and ncu. A command ends after LIMIT seconds (120), a part after
# PART_LIMIT (480): what was not run by then is in the summary too. After every command all output is
# in OUT/PART.tar.gz, and its summary in OUT/PART.txt. Exit status 0: every command passed.
set -uo pipefail
case "${1-}:$#" in
truth:3 | speed:3 | rest:3) ;;
*) echo "usage: $0 truth|speed|rest KIT OUT" >&2; exit 2 ;;
esac
part=$1 python=${PYTHON:-python3}
kit=$(cd "$2" && pwd) && mkdir -p "$3" && out=$(cd "$3" && pwd) || exit 2
ls "$kit"/*.whl >/dev/null 2>&1 || { echo "$0: no wheels in $2: see prepare.sh" >&2; exit 2; }
cd "$(dirname "$0")/../../.." || exit 2
scripts=backends/cupy/gpu_kit
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" \
    "$kit"/*.whl || exit 2
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # JAX would take most of the memory that the others need
mkdir "$work/$part" && cp "$kit/commit.txt" "$work/$part/"
limit=${LIMIT:-120} deadline=$((SECONDS + ${PART_LIMIT:-480})) failed=0

tell() { # NAME STATUS SECONDS COMMAND...
    [ "$2" = 0 ] || failed=1
    printf '%-24s status %s, %s s: %s\n' "$1" "$2" "$3" "${*:4}" | tee -a "$work/$part/summary.txt"
    # Status 1: a file grew meanwhile, of a command that still runs.
    tar -czf "$out/$part.tar.new" -C "$work" "$part" 2>/dev/null || [ $? = 1 ] || return
    mv "$out/$part.tar.new" "$out/$part.tar.gz"
    cp "$work/$part/summary.txt" "$out/$part.txt"
}

limited() { # NAME COMMAND...: within its limit and the part's; output into NAME.txt
    local name=$1 most=$((deadline - SECONDS))
    [ "$most" -gt 0 ] || return 125
    # A kernel that waits for ever must not keep the rest from running.
    timeout --kill-after=10 $((most < limit ? most : limit)) "${@:2}" \
        >"$work/$part/$name.txt" 2>&1 </dev/null
}

run() { # NAME COMMAND...
    local began=$SECONDS status=0
    limited "$@" || status=$?
    tell "$1" "$status" $((SECONDS - began)) "${@:2}"
}

began=0 names=() numbers=()
start() { # NAME COMMAND...: beside what else was started, until all have ended in `finish`
    [ "${#names[@]}" -gt 0 ] || began=$SECONDS
    limited "$@" &
    names+=("$1") numbers+=("$!")
}

finish() {
    for i in "${!names[@]}"; do
        local status=0
        wait "${numbers[$i]}" || status=$?
        tell "${names[$i]}" "$status" $((SECONDS - began)) "beside others"
    done
    names=() numbers=()
}

truth() {
    run gpu nvidia-smi
    run versions "$python" -m pip list
    run info "$python" -m gru_xp info
    # Side by side, as each leaves most of the device and of the host idle.
    start values-steps "$python" "$scripts/paths.py" steps
    for precision in float32 tf32 float16 bfloat16; do
        start "values-$precision" "$python" "$scripts/paths.py" persistent "$precision" ${FEW:-}
    done
    finish
    read -ra tests <<<"${TESTS:-tests/test_cuda_gpu.py}"
    start tests "$python" -m pytest -q -W default --backend cupy "${tests[@]}"
    # For the documentation's table of what works where: support.json belongs into the record.
    read -ra features <<<"${FEATURES:-$(grep -l 'mark\.feature' tests/test_*.py | tr '\n' ' ')}"
    start features "$python" -m pytest -q -W default --backend cupy -m feature \
        --support="$work/$part/support.json" "${features[@]}"
    for tool in memcheck racecheck synccheck initcheck; do
        local watch=(compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" "$scripts/paths.py")
        # What cuBLAS writes in 16 bits on Hopper, initcheck does not see.
        local few=() && [ "$tool" != initcheck ] || few=(float32 tf32 float64)
        start "$tool-steps" "${watch[@]}" steps --few "${few[@]}"
        start "$tool-persistent" "${watch[@]}" persistent --few
    done
    finish
}

speed() {
    run gpu nvidia-smi
    run constants "$python" "$scripts/constants.py"
    local precisions=(float16 tf32 bfloat16)
    read -ra sizes <<<"${SIZES:-1x1024 16x1024 64x1024 1x2048 16x2048 64x2048}"
    for precision in "${precisions[@]}"; do
        run "loop-$precision" "$python" "$scripts/loops.py" "$precision" "${sizes[@]}"
        run "layouts-$precision" "$python" "$scripts/loops.py" "$precision" "${sizes[@]}" --layouts
        run "layer-$precision" "$python" "$scripts/layers.py" "$precision" "${sizes[@]}"
    done
    run fit "$python" "$scripts/fit.py" "$work/$part"/constants.txt "$work/$part"/layouts-*.txt
}

rest() {
    read -ra sizes <<<"${SIZES:-1x1024 16x1024 64x1024 1x2048 16x2048 64x2048}"
    run loop-float32 "$python" "$scripts/loops.py" float32 "${sizes[@]}"
    run layer-float32 "$python" "$scripts/layers.py" float32 "${sizes[@]}"
    read -ra others <<<"${OTHERS:-16x256 16x512 16x4096 256x256 256x1024}"
    for precision in float16 tf32; do
        run "layer-$precision" "$python" "$scripts/layers.py" "$precision" "${others[@]}"
    done
    run train "$python" -m gru_xp train --backend cupy --out "$work/model" ${TRAIN:-}
    run ncu ncu --set full --clock-control none --kernel-name-base function \
        --kernel-name regex:persistent --launch-count 2 \
        "$python" "$scripts/loops.py" float16 "${sizes[0]}" --once
}

"$part"
exit "$failed"
