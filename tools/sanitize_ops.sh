#!/bin/bash
# Runs the tests of the operators with kernels that are checked for wrong memory accesses and undefined behavior.
#
#     tools/sanitize_ops.sh WORK [PYTEST ARGUMENT...]
#
# WORK is a folder for everything compiled; the first call compiles Jittor's core into it, which takes some minutes.
# The kernels are compiled with -fsanitize=address,undefined, the core is not: its memory goes through the checked
# allocator all the same, one block for each Var, so an access beyond a Var's end is found. oneDNN is not checked.
# Wants jfusion with its tests installed (make test does it), and g++ with its libasan and libubsan. Without further
# arguments the tests of tests/ops run, and of the operators that a system has to itself.
set -eu
work=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
[ $# -gt 0 ] || set -- tests/ops tests/text/test_ops.py tests/systems/film/test_attention.py

# A compiler that adds the flags to kernels, which Jittor compiles in a folder called jit. It is itself not run with
# the checked allocator: the checks would slow it down.
mkdir -p "$work/bin"
cat > "$work/bin/g++" <<EOF
#!/bin/sh
unset LD_PRELOAD
case "\$*" in
    */jit/*) exec $(command -v g++) "\$@" -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr ;;
    *) exec $(command -v g++) "\$@" ;;
esac
EOF
chmod +x "$work/bin/g++"

# Jittor's aligned allocations are no multiples of the alignment, as C demands of aligned_alloc; with posix_memalign
# they need not be.
gcc -shared -fPIC -O1 -x c - -o "$work/aligned.so" <<'EOF'
#include <stdlib.h>
void* aligned_alloc(size_t alignment, size_t size) {
    void* memory = 0;
    return posix_memalign(&memory, alignment, size) ? 0 : memory;
}
EOF

export JFUSION_HOME=$work/home cc_path=$work/bin/g++
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}  # two: what threads do together is run too
mkdir -p "$JFUSION_HOME"
"$python" -c "from jfusion.runtime import jt; print('the core is in', jt.flags.cache_path)"

library() { realpath "$(g++ -print-file-name="$1")"; }
export use_sfrl_allocator=0 use_temp_allocator=0  # they cut Vars from large blocks, and no check sees where one ends
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:verify_asan_link_order=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
LD_PRELOAD="$work/aligned.so $(library libasan.so) $(library libubsan.so)" \
    "$python" -m pytest -q -p no:cacheprovider "$@"
