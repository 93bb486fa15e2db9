#!/bin/bash
# Runs the tests of the operators with kernels that check their memory accesses and for undefined behavior.
#
#     tools/sanitize_ops.sh WORK [PYTEST ARGUMENT...]
#
# WORK is a folder for everything compiled; the first call compiles Jittor's core into it, which takes some minutes.
# The kernels of jfusion are compiled with -fsanitize=address,undefined, and each works on copies of its inputs and
# outputs that are exactly as long as these: Jittor allocates its Vars from large blocks, where an access beyond the end of
# one would not be noticed. An output starts as NaN, so one that is not written is noticed too. oneDNN is not checked.
# Wants jfusion with its tests installed (make test does it), and g++ with its libasan and libubsan. Without further
# arguments the tests of tests/ops run, and of the operators that only one system has.
set -eu
work=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
[ $# -gt 0 ] || set -- tests/ops tests/text/test_ops.py tests/systems/film/test_attention.py tests/systems/ddfm/test_em.py

cat > "$work/copies.h" <<'EOF'
#include "var.h"
#include <cstdlib>
#include <cstring>
template <class T> struct Copy {
    jittor::Var* var;
    T* values;
    Copy(jittor::Var* var, bool output) : var(var), values((T*)malloc(var->size)) {
        if (output) memset(values, 255, var->size);
        else memcpy(values, var->mem_ptr, var->size);
    }
    ~Copy() {
        memcpy(var->mem_ptr, values, var->size);
        free(values);
    }
};
EOF

# A compiler for Jittor: once SANITIZE is set it adds the flags and the copies to kernels of jfusion, which Jittor writes
# to files jit/code__*.cc. It is itself not run with the sanitizer's allocator, which would slow it down.
mkdir -p "$work/bin"
cat > "$work/bin/g++" <<EOF
#!/bin/bash
unset LD_PRELOAD
flags=()
for word in "\$@"; do
    case "\${SANITIZE-} \$word" in
        1*/jit/code__*.cc)
            copy=\${word%.cc}.copies.cc
            sed -E 's/auto\* __restrict__ ((in|out)[0-9]+)_p = (_(in|out)puts\[[0-9]+\])->ptr<(\w+)>\(\);/Copy<\5> \1_copy(\3, *"\2" == *"o"); auto* __restrict__ \1_p = \1_copy.values;/' "\$word" > "\$copy"
            set -- "\${@/#\$word/\$copy}"
            flags=(-include $work/copies.h -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr) ;;
    esac
done
exec $(command -v g++) "\$@" "\${flags[@]}"
EOF
chmod +x "$work/bin/g++"

# The sanitizer refuses libraries that are opened with RTLD_DEEPBIND, as Jittor does.
gcc -shared -fPIC -O1 -x c - -o "$work/dlopen.so" <<'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
void* dlopen(const char* file, int flags) {
    void* (*next)(const char*, int) = (void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen");
    return next(file, flags & ~RTLD_DEEPBIND);
}
EOF

export JFUSION_HOME=$work/home cc_path=$work/bin/g++
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}  # two: what threads do together is run too
mkdir -p "$JFUSION_HOME"
"$python" -c "from jfusion.runtime import jt; print('the core is in', jt.flags.cache_path)"

library() { realpath "$(g++ -print-file-name="$1")"; }
printf 'shift-base:%s\nshift-exponent:%s\n' nano_vector.h nano_vector.h > "$work/suppressions"  # a header of Jittor
export SANITIZE=1
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:verify_asan_link_order=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:suppressions=$work/suppressions
# -s: the sanitizer ends the process, and pytest would lose what it has to say
LD_PRELOAD="$work/dlopen.so $(library libasan.so) $(library libubsan.so)" \
    "$python" -m pytest -q -s -p no:cacheprovider "$@"
