#!/bin/bash
# Everything that needs a GPU, in one go: a row for each point, and one table at the end.
#
#     tools/gpu_check.sh [WORK]
#
# Wants jfusion with its tests installed (make test does it, or pip install -e '.[test]'), and CUDA:
# pip install -r requirements-cuda13.txt. REFERENCE=DIR and PYTHON_WITH_TORCH=PY add the comparison with the
# authors' FILM; DATA=DIR (VLFDataset with RoadScene) adds a training on it, of MINUTES minutes (default 10).
set -u
work=$(mkdir -p "${1:-gpu_check}" && cd "${1:-gpu_check}" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
jfusion() { "$python" -m jfusion "$@"; }
rows=$work/rows.txt
: > "$rows"

row() {  # row NAME COMMAND...: runs it, keeps its output, notes how it ended
    local name=$1 log="$work/$(echo "$1" | tr -c 'a-zA-Z0-9\n' '_').log" start=$SECONDS
    shift
    if "$@" > "$log" 2>&1; then state=passed; else state=FAILED; fi
    printf '%-8s %5d s  %-44s %s\n' "$state" $((SECONDS - start)) "$name" \
        "$(grep -E '^RESULT|passed|failed' "$log" | tail -1 | cut -c1-100)" | tee -a "$rows"
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
weights() { "$python" - "$@" <<'PY'
import sys, numpy as np
from jfusion.checkpoint import load
from pathlib import Path
a, b = (load(sorted(Path(f).glob("*/model/*.pkl"))[-1])["model"] for f in sys.argv[1:3])
worst = max(abs(a[k] - b[k]).max() for k in a)
print(f"RESULT weights differ by at most {worst:.1e}")
sys.exit(worst > float(sys.argv[3]))
PY
}
data=$work/demo/VLFDataset_h5/Demo_MFF_train.h5
film() {  # film FOLDER STEPS: a small FILM on the demo's pairs
    jfusion train film --data "$data" --exp "$1" --max-steps "$2" --seed 1 --pictures 0 --keep-last 1
}
moved() {  # moved FIRST SECOND: 3 steps on one, 3 more on the other, beside 6 on the GPU
    rm -rf "$work/moved"
    env $1 "$python" -m jfusion train film --data "$data" --exp "$work/moved" --max-steps 3 --seed 1 --pictures 0 &&
        env $2 "$python" -m jfusion train --resume "$(ls -d "$work"/moved/*)" --max-steps 6 &&
        losses "$work/moved" "$work/gpu_1" 1e-2
}

row "4 golden fixtures, TF32 off" env jt_allow_tf32=0 "$python" -m pytest -q tests/systems tests/diffusion tests/text
row "4 layers" "$python" -m pytest -q tests/layers
row "(issue 8) DDFM: the Fourier step" "$python" -m pytest -q tests/systems/test_ddfm.py
row "the whole job" jfusion demo --out "$work/demo" --steps 30
row "4 FILM, 6 steps on the GPU" film "$work/gpu_1" 6
row "4 FILM, the same 6 steps again" film "$work/gpu_2" 6
row "4 two runs with one seed" losses "$work/gpu_1" "$work/gpu_2" 0
row "4 FILM, 6 steps on the CPU" env nvcc_path= "$python" -m jfusion train film --data "$data" \
    --exp "$work/cpu" --max-steps 6 --seed 1 --pictures 0
row "4 the GPU's losses follow the CPU's" losses "$work/gpu_1" "$work/cpu" 1e-2
row "(issue 6) begun on the GPU, ended on the CPU" moved A=A nvcc_path=
row "(issue 6) begun on the CPU, ended on the GPU" moved nvcc_path= A=A
if [ -n "${REFERENCE:-}" ]; then
    row "5 speed beside the authors' FILM" "$python" benchmarks/compare.py film --reference "$REFERENCE" \
        --python "${PYTHON_WITH_TORCH:-python3}"
fi
if [ -n "${DATA:-}" ]; then
    road() {
        jfusion preprocess --dataset RoadScene --split train --root "$DATA" --text minilm --out "$work/road.h5" &&
            timeout -s INT "$((${MINUTES:-10} * 60))" "$python" -m jfusion train film --data "$work/road.h5" \
                --exp "$work/road"
        jfusion test film --weights "$work/road" --dataset RoadScene --root "$DATA" --text minilm --out "$work/out"
    }
    row "6 FILM on RoadScene, ${MINUTES:-10} minutes" road
fi
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then
    row "7 two processes, a GPU each" "$python" -m pytest -q tests/test_parallel.py
fi
echo
cat "$rows"
! grep -q FAILED "$rows"
