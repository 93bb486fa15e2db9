"""Kernels that several threads ask for at once share a compiler, and each is what it would be alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import numpy as np
from pathlib import Path
from jfusion.runtime import jt

def code(factor, header):
    return jt.code([3], "float32", [x], cpu_header=header, cpu_src=f'''
        for (int i = 0; i < in0->num; i++) out0_p[i] = helper(in0_p[i]) * {factor} + 7919;''')

before = set(Path(jt.flags.cache_path, "jit").glob("*.so"))
x = jt.array(np.array([1, 2, 3], "float32"))
headers = [f"static float helper(float v) {{{{ return v + {n} + MARK; }}}}".replace("{{", "{").replace("}}", "}")
           for n in range(3)]
made = [code(n + 2, f"#define MARK {n}\\n" + h) for n, h in enumerate(headers)]
made += [(x * 3 + n).sqrt() if n else (x - 7919).exp() for n in range(2)]
jt.sync(made)
for n in range(3):
    assert made[n].numpy().tolist() == [(v + 2 * n) * (n + 2) + 7919 for v in (1, 2, 3)]
assert np.allclose(made[4].numpy(), np.sqrt([4, 7, 10]))
try:
    code(1, "static float helper(float v) { return nothing_like_it; }").numpy()
except Exception as error:
    print("refused")
assert code(5, "static float helper(float v) { return v; }").numpy().tolist() == [7924, 7929, 7934]
"""


def test_kernels_with_the_same_names_are_compiled_together():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.split() == ["refused"], done.stderr
    assert "nothing_like_it" in done.stderr


DAMAGED = """
import sys
from pathlib import Path
from jfusion.runtime import build, jt

def mapped():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "/jit/code" in line}

twice = jt.code([1], "float32", [jt.ones(1)], cpu_src="out0_p[0] = 2 * in0_p[0] + 5417;")
assert twice.numpy().tolist() == [5419]
print(build.kernels(), *mapped())
"""


def test_a_kernel_that_was_cut_is_compiled_again():
    def use():
        done = subprocess.run([sys.executable, "-c", DAMAGED], capture_output=True, text=True)
        count, *paths = done.stdout.split()
        return int(count), paths, done.stderr

    use()
    compiled, (kernel,), said = use()
    assert compiled == 0 and "damaged" not in said
    whole = Path(kernel).read_bytes()
    for part in (whole[: len(whole) // 2], b""):
        Path(kernel).write_bytes(part)
        compiled, paths, said = use()
        assert (compiled, paths) == (1, [kernel])
        assert f"jfusion: the compiled kernel {kernel} is damaged; it is compiled again" in said
