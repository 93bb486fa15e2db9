#!/bin/bash
# Everything that needs a GPU, in one go: a row for each point, and one table at the end.
#
#     tools/gpu_check.sh [WORK]
#
# Wants jfusion's tests and CUDA (pip install -e '.[test]' -r requirements-cuda13.txt). Its variables:
#   BUDGET=SECONDS    the whole time (default 3600): no row starts or goes on after it. Rows are in the order of
#                     their value, and each is written to WORK/rows.txt as it ends.
#   ONLY='kernel|seed'    the parts to run, by name; WORK keeps what earlier calls made
#   H5=FILE           RoadScene's training pairs with minilm features: adds the first steps and the training
#   CPU_RUN=DIR       first steps made on a CPU with it (`tools/gpu_kit.sh` makes them), for the comparison
#   REFERENCES=DIR    the authors' code (film/, cddfuse/, ddfm/, lfdt/, fccf/): adds the comparisons of speed
#   PYTHON_WITH_TORCH=PY, PYTHON_PATH_OF_TORCH=PATH    the Python for it, and its PYTHONPATH
#   TRAIN=SECONDS, TRAIN_OPTIONS='...'    how long to train (default: all but the last 200), and with what options
set -u
work=$(mkdir -p "${1:-gpu_check}" && cd "${1:-gpu_check}" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
rows=$work/rows.txt
deadline=$(($(date +%s) + ${BUDGET:-3600}))
touch "$rows"

left() { echo $((deadline - $(date +%s))); }

row() {  # row LIMIT NAME COMMAND...: runs it for at most LIMIT seconds, keeps its output, notes how it ended
    local limit=$1 name=$2 log="$work/$(echo "$2" | tr -c 'a-zA-Z0-9\n' '_').log" start=$SECONDS state=FAILED
    shift 2
    [ "$limit" -lt "$(left)" ] || limit=$(($(left) - 3))
    if [ "$limit" -lt 8 ]; then
        printf '%-8s %5d s  %s\n' skipped 0 "$name" | tee -a "$rows"
        return 0
    fi
    # a shell's background ignores Ctrl-C, by which a training and pytest are asked to end
    timeout -s INT -k 5 "$limit" env --default-signal=INT bash -c '"$@"' - "$@" > "$log" 2>&1
    case $? in 0) state=passed ;; 124 | 137) state=late ;; esac
    printf '%-8s %5d s  %-44s %s\n' "$state" $((SECONDS - start)) "$name" "$(said "$log")" | tee -a "$rows"
    [ "$state" = passed ]
}
said() {
    grep -aE '^RESULT|[0-9]+ (passed|failed|error)|ours / reference: time|largest difference' "$1" |
        tail -9 | cut -c1-110 | paste -sd';'
}
wanted() { echo "$1" | grep -qE "${ONLY:-.}"; }
tests() { "$python" -m pytest -v --tb=short -p no:cacheprovider -n "$1" --dist load "${@:2}"; }

losses() { "$python" - "$@" <<'PY'
import csv, sys
from pathlib import Path
a, b, bound = sys.argv[1], sys.argv[2], float(sys.argv[3])
x, y = ([float(r["total"]) for r in csv.DictReader(next(Path(f).glob("*/metrics.csv")).open()) if r["total"]] for f in (a, b))
worst = max(abs(p / q - 1) for p, q in zip(x, y, strict=True))
print(f"RESULT losses of {len(x)} steps differ by at most {worst:.1e}")
sys.exit(worst > bound)
PY
}
film() {  # film FOLDER STEPS OPTION...
    rm -rf "$1"
    "$python" -m jfusion train film --data "$H5" --exp "$1" --max-steps "$2" --seed 1 --images 0 "${@:3}"
}
first_steps() {  # from trained weights: what is drawn at the start differs between CPU and GPU
    film "$work/gpu_1" 6 --weights film-ivf --token-size 288 384 &&
        film "$work/gpu_2" 6 --weights film-ivf --token-size 288 384 && losses "$work/gpu_1" "$work/gpu_2" 1e-3
}
moved() {  # a small FILM: 3 steps of the CPU and 3 more here; and 3 steps here, to go on with on the CPU
    film "$work/begun" 3 --hidden-dim 64 --image2text-dim 4 --token-size 16 16 &&
        rm -rf "$work/moved" && cp -r "$CPU_RUN/begun" "$work/moved" &&
        "$python" -m jfusion train --resume "$(ls -d "$work"/moved/*)" --max-steps 6 &&
        losses "$work/moved" "$CPU_RUN/small" 1e-2
}
compared() {  # compared PRECISION SYSTEM CASE...: with the authors' code on the same GPU
    local precision=$1 system=$2 cases=()
    for name in "${@:3}"; do cases+=(--case "$name"); done
    "$python" benchmarks/compare.py "$system" "${cases[@]}" --device cuda --threads 4 --precision "$precision" \
        --reference "$REFERENCES/$system" --python "${PYTHON_WITH_TORCH:-python3}"
}
profile() { JFUSION_PRECISION=$1 "$python" - "$2" <<'PY'  # profile PRECISION CASE: FILM's
import sys
sys.path.insert(0, "benchmarks")
from cases import film
from jfusion.runtime import jt
run = film.ours(sys.argv[1])
run()
with jt.profile_scope(warmup=0, rerun=0) as report:
    run()
for line in report[:61]:
    print(*(str(cell)[:90] for cell in line), sep="\t")
PY
}
train() {  # train SECONDS: begins a run, or goes on with it; ends it 25 seconds before the deadline at the latest
    local seconds=$1 most=$(($(left) - 25)) run
    [ "$seconds" -lt "$most" ] || seconds=$most
    run=$(ls -d "$work"/road/* 2> /dev/null | tail -1)
    timeout -s INT -k 20 "$seconds" "$python" -m jfusion train \
        $(if [ -n "$run" ]; then echo --resume "$run"; else echo film --data "$H5" --exp "$work/road" \
            ${TRAIN_OPTIONS:-} --seed 1 --images 1 --keep-last 1; fi)
    "$python" - "$work" <<'PY'
import csv, sys
from pathlib import Path
rows = [r for r in csv.DictReader(next(Path(sys.argv[1]).glob("road/*/metrics.csv")).open()) if r["total"]]
mean = lambda part: sum(float(r["total"]) for r in part) / len(part)
print(f"RESULT {len(rows)} steps, loss {mean(rows[:50]):.3f} (first 50) -> {mean(rows[-50:]):.3f} (last 50)")
PY
}

export -f left tests losses film first_steps moved compared profile train
export PYTHONUNBUFFERED=1 python work deadline H5 CPU_RUN REFERENCES

on_gpu() { "$python" -c 'from jfusion.runtime import jt; assert jt.flags.use_cuda, "CUDA is off"; print((jt.ones(3) * 2).numpy())'; }
if ! on_gpu > "$work/start.log" 2>&1; then
    tail -30 "$work/start.log" >&2
    echo "gpu_check: jfusion does not run on a GPU here; jfusion doctor says why" >&2
    exit 2
fi
echo "Jittor's core and a first kernel: $SECONDS s" | tee -a "$rows"
"$python" -m jfusion doctor > "$work/doctor.log" 2>&1 &
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$rows"

# Jittor compiles under one lock, so rows that compile much stand at the end, and none beside a timed one.
if wanted first; then
    if [ -n "${H5:-}" ]; then
        row 90 "FILM, 6 steps twice with one seed" first_steps && [ -n "${CPU_RUN:-}" ] &&
            row 10 "the GPU's losses follow the CPU's" losses "$work/gpu_1" "$CPU_RUN/paper" 1e-4
    fi
    row 150 "golden fixtures of FILM, float32" tests 3 tests/systems/film/test_film.py
fi
if wanted moved && [ -n "${H5:-}" ] && [ -n "${CPU_RUN:-}" ]; then
    row 90 "begun on the CPU, ended on the GPU" moved
fi
if wanted speed && [ -n "${REFERENCES:-}" ]; then
    for precision in ${PRECISIONS:-float32 tf32 bfloat16}; do
        row 90 "speed, FILM, $precision" compared $precision film forward-480x640 train-2x288x384
        row 90 "speed, CDDFuse, $precision" compared $precision cddfuse forward-288x384 phase1-2x128x128 phase2-2x128x128
    done
    row 40 "profile of FILM's step" profile float32 train-2x288x384
    row 40 "profile of FILM's step, tf32" profile tf32 train-2x288x384
    row 40 "profile of FILM's forward" profile float32 forward-480x640
fi
if wanted train && [ -n "${H5:-}" ]; then
    row 3000 "FILM on RoadScene" train "${TRAIN:-$(($(left) - 200))}"
fi
if wanted others; then
    row 200 "kernels against their references" tests 4 tests/ops tests/text/test_ops.py \
        tests/systems/film/test_attention.py tests/systems/ddfm/test_em.py &
    for name in cddfuse sfdfuse ddfm lfdt fccf; do
        row 400 "golden fixtures of $name, float32" tests 2 "tests/systems/$name" &
    done
    row 400 "golden fixtures of the text encoder" tests 2 tests/text &
    for precision in tf32 bfloat16; do
        row 60 "differences in $precision" env JFUSION_PRECISION=$precision "$python" tools/measure_golden.py &
    done
    wait
fi
if wanted more && [ -n "${REFERENCES:-}" ]; then
    row 120 "speed, DDFM's official UNet" compared float32 ddfm unet-official-256x256
    row 60 "speed, LFDT-Fusion" compared float32 lfdt fuse-256x256 step-256x256
    row 60 "speed, Diff-FCCF" compared float32 fccf forward-256x256 step-256x256
fi
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then
    row 300 "two processes, a GPU each" tests 1 tests/runtime/test_mpi.py
fi
echo
cat "$rows"
! grep -qE '^(FAILED|late)' "$rows"
