"""Kernels that several threads ask for at once share a compiler, and each is what it would be alone."""

from __future__ import annotations

import subprocess
import sys

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
