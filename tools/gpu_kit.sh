#!/bin/bash
# Packs all that a machine with a GPU needs that has no network: its minutes then go to the GPU.
#
#     tools/gpu_kit.sh KIT DATA AUTHORS PACKAGES [step...]
#
# KIT gets two files: kit.tar.xz and start.sh. There, `bash start.sh SECONDS OUT RESULTS` unpacks to /tmp/gpu-kit and runs
# tools/gpu_check.sh. The machine has CUDA 13's driver, nvcc, libraries and g++, and a Python 3.12 with h5py, scipy,
# matplotlib, transformers, pytest and pytest-xdist (PyTorch for the comparisons).
#   DATA      a data set folder with RoadScene and its minilm features (jfusion preprocess --text minilm)
#   AUTHORS   film/, cddfuse/, ddfm/, lfdt/, fccf/: their repositories
#   PACKAGES  a folder with requirements-cuda13.txt (pip install -t PACKAGES), for compiling here
# Steps, in this order; without any, all: site compile cpu data pack
#   PYTHON=PY a Python 3.12 of this machine with the same packages, but without jittor and numpy
#   PYTHON_CPU=PY  a Python with jfusion for the CPU: 6 steps of FILM there, to compare with
#   EXTRA=DIR      travels along, as extra/
#   COMPILE="film:train-2x288x384 ..."   benchmark cases whose kernels are compiled (default: FILM and CDDFuse)
set -eu
kit=$(mkdir -p "$1" && cd "$1" && pwd)
data=$(cd "$2" && pwd) authors=$(cd "$3" && pwd) packages=$(cd "$4" && pwd)
shift 4
steps=${*:-site compile cpu data pack}
here=$(cd "$(dirname "$0")/.." && pwd)
there=/tmp/gpu-kit  # on both machines: Jittor's command lines hold it, and must be the same
python=${PYTHON:-python3.12}
wants() { case " $steps " in *" $1 "*) ;; *) return 1 ;; esac; }

variables() {
    cat <<EOF
export JFUSION_HOME=$there/home PYTHONPATH=$there/site:$there/source python_config_path=$there/python3.12-config
export cc_flags=-march=x86-64-v3 PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
EOF
}

if wants site; then
    rm -rf "$there/site" "$there/include" "$there/source"
    mkdir -p "$there/site" "$there/include" "$there/source"
    "$python" -m pip install -q --no-deps -t "$there/site" jittor==1.3.11.0 numpy==1.26.4 astunparse tensorboardX six simplejpeg
    find "$there/site" -depth -type d \( -name tests -o -name test -o -name demo -o -name notebook -o -name __pycache__ \) \
        -exec rm -rf {} +
    find "$there/site" -name '*.so*' -exec strip --strip-debug {} + 2> /dev/null || true
    cp -r "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" "$there/include/python3.12"
    cat > "$there/python3.12-config" <<EOF
#!/bin/sh
case "\$1" in
    --extension-suffix) echo .cpython-312-x86_64-linux-gnu.so ;;
    --includes | --cflags) echo -I$there/include/python3.12 ;;
    *) echo ;;
esac
EOF
    chmod +x "$there/python3.12-config"
    git -C "$here" ls-files -z | grep -zvE '^docs/|^jfusion/weights/(film-m|cddfuse-mif|sfdfuse).*safetensors|^jfusion/parity/recorded|^tests/cases' |
        tar cf - -C "$here" --null -T - | tar xf - -C "$there/source"
    variables > "$there/variables"
fi

emulated() { "$python" "$there/source/tools/cuda_on_cpu.py" "$kit/emulator" --packages "$packages" --real-compiler -- "$@"; }
if wants compile; then (
    . "$there/variables"
    cd "$there/source"
    for case in ${COMPILE:-film:forward-48x64 film:train-2x288x384 cddfuse:forward-48x64 cddfuse:phase1-2x128x128 cddfuse:phase2-2x128x128}; do
        echo "compiling $case"
        emulated "$python" -c "
import importlib, os, sys
sys.path.insert(0, 'benchmarks')
try:
    importlib.import_module('cases.${case%%:*}').ours('${case#*:}')()
except Exception as error:  # nothing was computed
    print('ended:', str(error)[:200])
os._exit(0)" 2>&1 | tr '\r' '\n' | tail -1 || true
    done
    emulated "$python" tools/carried_cache.py record
); fi

if wants cpu; then (
    cd "$here"
    rm -rf "$there/cpu" && mkdir -p "$there/cpu"
    run() { PYTHONPATH=$here nvcc_path= "${PYTHON_CPU:?}" -m jfusion train "$@"; }
    PYTHONPATH=$here nvcc_path= "$PYTHON_CPU" -m jfusion preprocess --dataset RoadScene --split train --root "$data" \
        --out "$there/cpu/road.h5" --no-check-alignment
    short=(film --data "$there/cpu/road.h5" --seed 1 --images 0) small=(--hidden-dim 64 --image2text-dim 4 --token-size 16 16)
    run "${short[@]}" --weights film-ivf --token-size 288 384 --exp "$there/cpu/paper" --max-steps 6
    run "${short[@]}" "${small[@]}" --exp "$there/cpu/begun" --max-steps 3
    cp -r "$there/cpu/begun" "$there/cpu/small"
    run --resume "$(ls -d "$there"/cpu/small/*)" --max-steps 6
    rm -r "$there"/cpu/{paper,small}/*/model "$there"/cpu/*/*/code  # the losses are enough
    rm "$there/cpu/road.h5"
); fi

if wants data; then
    rm -rf "$there/data" "$there/authors" && mkdir -p "$there/data" "$there/authors"
    (cd "$data" && cp -rL --parents Image/IVF/RoadScene Text/IVF/RoadScene TextFeature/IVF/RoadScene "$there/data")
    cp -r "$authors"/* "$there/authors"
    rm -rf "$there/extra" && mkdir -p "$there/extra"
    [ -z "${EXTRA:-}" ] || cp -r "$EXTRA"/* "$there/extra"
fi

if wants pack; then
    (cd "$there" && rm -f home/*.gch home/ready-* && rm -rf source/.git &&
        tar cf - site include python3.12-config variables source home data authors cpu extra |
        xz -T2 -6 > "$kit/kit.tar.xz")
    cat > "$kit/start.sh" <<EOF
#!/bin/bash
# bash start.sh SECONDS OUT RESULTS: the checks of tools/gpu_check.sh, for so many seconds in all, in OUT; RESULTS
# gets what is worth bringing back, in files of at most 15 MB
begin=\$(date +%s) kit=\$(cd "\$(dirname "\$0")" && pwd)/kit.tar.xz out=\$(mkdir -p "\$2" && cd "\$2" && pwd)
export PYTHON=\${PYTHON:-python3}
mkdir -p $there
if [ "\$(cat $there/unpacked 2> /dev/null)" != "\$(sha256sum < "\$kit")" ]; then
    \$PYTHON -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "\$kit" $there || exit 2
    . $there/variables
    cd $there/source || exit 2
    \$PYTHON tools/carried_cache.py adopt || exit 2
    nvcc_path= \$PYTHON -m jfusion preprocess --dataset RoadScene --split train --root $there/data \\
        --out $there/road.h5 --no-check-alignment > "\$out/preprocess.log" 2>&1 || tail -3 "\$out/preprocess.log"
    sha256sum < "\$kit" > $there/unpacked
fi
. $there/variables
cd $there/source || exit 2
echo "ready after \$((\$(date +%s) - begin)) s"
BUDGET=\$((\$1 - (\$(date +%s) - begin))) H5=$there/road.h5 CPU_RUN=$there/cpu REFERENCES=$there/authors \\
    PYTHON_WITH_TORCH=\$PYTHON bash tools/gpu_check.sh "\$out"
\$PYTHON tools/carried_cache.py count | tee -a "\$out/rows.txt"
mkdir -p "\$3" && cd "\$out" || exit 2
tar czf "\$3/logs.tgz" --exclude=model --exclude=code .
tar czf - \$(ls -t road/*/model/*.pkl | head -1) | split -b 15M - "\$3/road.tgz."
tar czf "\$3/begun.tgz" --exclude=code begun 2> /dev/null
find "\$3" -size 0 -delete
EOF
    ls -la "$kit"
fi
