#!/usr/bin/env bash
# What `prove.sh` needs on a machine that has a GPU but no network and no host compiler, into a folder:
#
#     backends/cupy/gpu_kit/prepare.sh FOLDER
#
# The wheels of gru_xp, compiled here, array-api-compat and array-api-strict, and the commit's hash.
# PYTHON (python3.12) must be of the version that the machine with the GPU has; both are x86-64 Linux.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
python=${PYTHON:-python3.12}
mkdir -p "$1" && folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/../../.."
rm -f "$folder"/*.whl
# A failed compilation must not leave a wheel without the extension.
"$python" -m pip wheel -q --no-deps -w "$folder" .
"$python" -m zipfile -l "$folder"/gru_xp-*.whl | grep 'gru_xp_numpy/_native.*\.so' >/dev/null ||
    { echo "$0: the wheel of gru_xp lacks its extension: is there a C++ compiler?" >&2; exit 1; }
"$python" -m pip download -q --no-deps -d "$folder" 'array-api-compat>=1.12' 'array-api-strict>=2.5'
{ git rev-parse HEAD; git status --short; } >"$folder/commit.txt"
ls -l "$folder"
