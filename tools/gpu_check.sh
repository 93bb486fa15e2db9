#!/bin/bash
# Everything that needs a GPU, in one go: a row for each point, and one table at the end.
#
#     tools/gpu_check.sh [WORK]
#
# Wants jfusion with its tests installed (make test does it, or pip install -e '.[test]'), and CUDA:
# pip install -r requirements-cuda13.txt. Where time is short: ONLY="issue 8|seed" runs the rows whose
# names match it, and WORK keeps what earlier calls made; LIMIT seconds for a row (default 480).
# REFERENCES=DIR (film/, cddfuse/, ddfm/: the authors' code) and PYTHON_WITH_TORCH=PY add the comparisons with
# it; DATA=DIR (VLFDataset with RoadScene) adds a training on it, of MINUTES minutes (default 7). The short runs
# of FILM are on the demo's pairs, or on those of H5=FILE.
set -u
work=$(mkdir -p "${1:-gpu_check}" && cd "${1:-gpu_check}" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
jfusion() { "$python" -m jfusion "$@"; }
rows=$work/rows.txt
touch "$rows"

row() {  # row NAME COMMAND...: runs it, keeps its output, notes how it ended
    local name=$1 log="$work/$(echo "$1" | tr -c 'a-zA-Z0-9\n' '_').log" start=$SECONDS
    shift
    echo "$name" | grep -qE "${ONLY:-.}" || return 0
    if timeout -k 10 "${LIMIT:-480}" bash -c '"$@"' - "$@" > "$log" 2>&1; then state=passed; else state=FAILED; fi
    printf '%-8s %5d s  %-44s %s\n' "$state" $((SECONDS - start)) "$name" \
        "$(grep -aE '^RESULT|passed|failed|ours / reference: time' "$log" | tail -4 | cut -c1-100 | paste -sd';')" |
        tee -a "$rows"
}

on_gpu() { "$python" -c 'from jfusion.runtime import jt; assert jt.flags.use_cuda, "CUDA is off"'; }
if ! on_gpu > "$work/start.log" 2>&1; then
    tail -3 "$work/start.log" >&2
    echo "gpu_check: jfusion does not run on a GPU here; jfusion doctor says why" >&2
    exit 2
fi
jfusion doctor | tee "$work/doctor.log"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$rows"

losses() { "$python" - "$@" <<'PY'
import csv, sys, numpy as np
from pathlib import Path
a, b, bound = sys.argv[1], sys.argv[2], float(sys.argv[3])
x, y = ([float(r["total"]) for r in csv.DictReader(next(Path(f).glob("*/metrics.csv")).open())] for f in (a, b))
worst = max(abs(p / q - 1) for p, q in zip(x, y, strict=True))
print(f"RESULT losses of {len(x)} steps differ by at most {worst:.1e}")
sys.exit(worst > bound)
PY
}
data=${H5:-$work/demo/VLFDataset_h5/Demo_MFF_train.h5}
film() {  # film FOLDER STEPS: a small FILM on the demo's pairs
    rm -rf "$1"
    jfusion train film --data "$data" --exp "$1" --max-steps "$2" --seed 1 --images 0 --keep-last 1
}
moved() {  # moved FIRST SECOND: 3 steps on one, 3 more on the other, compared with 6 on the GPU
    rm -rf "$work/moved"
    env $1 "$python" -m jfusion train film --data "$data" --exp "$work/moved" --max-steps 3 --seed 1 --images 0 &&
        env $2 "$python" -m jfusion train --resume "$(ls -d "$work"/moved/*)" --max-steps 6 &&
        losses "$work/moved" "$work/gpu_1" 1e-2
}

compared() {  # compared SYSTEM CASE...: the authors' code on the same GPU
    local system=$1 cases=()
    shift
    for name in "$@"; do cases+=(--case "$name"); done
    "$python" benchmarks/compare.py "$system" "${cases[@]}" --device cuda --threads 8 --precision "${PRECISION:-float32}" \
        --reference "$REFERENCES/$system" --python "${PYTHON_WITH_TORCH:-python3}"
}
road() {
    [ -f "$work/road.h5" ] || jfusion preprocess --dataset RoadScene --split train --root "$DATA" \
        --text minilm --out "$work/road.h5" || return 1
    local newest=$(ls -d "$work"/road/* 2> /dev/null | tail -1)
    timeout -s INT "$((${MINUTES:-7} * 60))" "$python" -m jfusion train \
        $(if [ -n "$newest" ]; then echo --resume "$newest"; else echo film --data "$work/road.h5" --exp "$work/road"; fi)
    jfusion test film --weights "$work/road" --dataset RoadScene --root "$DATA" --text minilm --out "$work/out"
}
export -f jfusion film moved losses compared road
export python data work

row "DDFM: the Fourier step" "$python" -m pytest -q tests/systems/ddfm/test_ddfm.py tests/diffusion
row "kernels against their references" "$python" -m pytest -q tests/ops tests/text/test_ops.py \
    tests/systems/film/test_attention.py tests/systems/ddfm/test_em.py
row "golden fixtures of FILM, float32" "$python" -m pytest -q tests/systems/film/test_film.py
row "the whole job" jfusion demo --out "$work/demo" --steps 30
row "FILM, 6 steps on the GPU" film "$work/gpu_1" 6
row "FILM, the same 6 steps again" film "$work/gpu_2" 6
row "two runs with one seed" losses "$work/gpu_1" "$work/gpu_2" 0
row "FILM, 6 steps on the CPU" env nvcc_path= "$python" -m jfusion train film --data "$data" \
    --exp "$work/cpu" --max-steps 6 --seed 1 --images 0
row "the GPU's losses follow the CPU's" losses "$work/gpu_1" "$work/cpu" 1e-2
row "begun on the GPU, ended on the CPU" moved A=A nvcc_path=
row "begun on the CPU, ended on the GPU" moved nvcc_path= A=A
if [ -n "${REFERENCES:-}" ]; then
    row "speed: FILM" compared film forward-480x640 train-2x288x384
    row "speed: CDDFuse" compared cddfuse
    row "speed: DDFM" compared ddfm
    for wanted in tf32 bfloat16; do
        PRECISION=$wanted row "speed in $wanted: FILM" compared film forward-480x640 train-2x288x384
        PRECISION=$wanted row "speed in $wanted: DDFM" compared ddfm
    done
fi
for wanted in float32 tf32 bfloat16; do
    row "differences in $wanted" env JFUSION_PRECISION=$wanted "$python" tools/measure_golden.py
done
if [ -n "${DATA:-}" ]; then
    LIMIT=$((${MINUTES:-7} * 60 + 170)) row "FILM on RoadScene, ${MINUTES:-7} minutes" road
fi
for name in cddfuse sfdfuse lfdt fccf; do
    row "golden fixtures of $name, float32" "$python" -m pytest -q "tests/systems/$name"
done
row "golden fixtures of the text encoder" "$python" -m pytest -q tests/text
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then
    row "two processes, a GPU each" "$python" -m pytest -q tests/runtime/test_mpi.py
fi
echo
cat "$rows"
! grep -q FAILED "$rows"
