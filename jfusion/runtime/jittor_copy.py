"""The copies of Jittor's Python packages in the folder of a core, which start without the work of a first build.

Where the core is there, Jittor would still read all its sources, write the bindings of its operations, and ask
every compiler it finds for its version: 70 processes, half a second on two cores. The installed packages are
only read.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from jfusion.runtime.units import changed

_GENERATES = """gen_jit_flags()
gen_jit_tests()
op_headers = glob.glob(jittor_path+"/src/ops/**/*op.h", recursive=True)
jit_src = gen_jit_op_maker(op_headers)
LOG.vvvv(jit_src)
with open(os.path.join(cache_path, "gen", "jit_op_maker.h"), 'w', encoding='utf8') as f:
    f.write(jit_src)
"""
_FINDS_NVCC = """nvcc_path = None
if install_cuda.has_installation() or os.name == 'nt':
    nvcc_path = install_cuda.install_cuda()
    if nvcc_path:
        nvcc_path = try_find_exe(nvcc_path)
# check system installed cuda
if not nvcc_path:
    nvcc_path = env_or_try_find('nvcc_path', 'nvcc') or \\
        try_find_exe('/usr/local/cuda/bin/nvcc') or \\
        try_find_exe('/usr/bin/nvcc') or \\
        try_find_exe('/opt/cuda/bin/nvcc')
# if system has no cuda, install jtcuda
if not nvcc_path:
    nvcc_path = install_cuda.install_cuda()
    if nvcc_path:
        nvcc_path = try_find_exe(nvcc_path)
"""
_IS_THERE = """
def core_is_there():
    written = os.path.join(cache_path, "gen", "jit_op_maker.h")
    return os.path.isfile(written) and bool(glob.glob(os.path.join(cache_path, "jittor_core*.so")))
"""
_COMPILES = "    base_output = os.path.basename(output).split('.')[0]\n    if os.name == 'nt':\n"
_GENERATES_OPERATIONS = """    gen_src = gen_jit_op_maker(headers.values(), export=gen_name, extra_flags=op_extra_flags)
    pyjt_compiler.compile_single(gen_head_fname, gen_src_fname, src=gen_src)
"""
_WRITES_OPERATIONS = """    with open(gen_head_fname, "w", encoding='utf8') as f:
        f.write(gen_src)
"""
_DISTRUSTS = """try:
    import ssl
    ssl._create_default_https_context = ssl._create_unverified_context
except:
    pass
"""
_READS_DATASETS = """
def __getattr__(name):
    if name not in ("dataset", "transform"):
        raise AttributeError(f"module 'jittor' has no attribute {name!r}")
    import importlib
    return importlib.import_module("jittor." + name)
"""
_BINDINGS = "def compile(cache_path, jittor_path):\n"


def _under(condition: str, text: str) -> str:
    """The lines of a text in a block that begins with the condition."""
    return f"{condition}\n" + "".join(f"    {line}\n" for line in text.splitlines())


# What is replaced, exactly once: (file, old, new). `is_starting` is true while jfusion imports Jittor.
CHANGES = (
    (
        "jittor/pyjt_compiler.py",
        _BINDINGS,
        _BINDINGS + '    if glob.glob(os.path.join(cache_path, "jittor_core*.so")): return []\n',
    ),
    (
        "jittor/compiler.py",
        "from jittor import __version__\n",
        f"from jittor import __version__\n{_IS_THERE}",
    ),
    ("jittor/compiler.py", _GENERATES, _under("if not core_is_there():", _GENERATES)),
    (
        "jittor/compiler.py",
        "use_data_gz = os.path.isfile(data_gz_path)\n",
        "use_data_gz = os.path.isfile(data_gz_path) and not core_is_there()\n",
    ),
    (
        "jittor/compiler.py",
        _COMPILES,
        "    if jit_utils.is_starting and os.path.isfile(os.path.join(cache_path, output)): return False\n"
        + _COMPILES,
    ),
    (
        "jittor/compiler.py",
        _GENERATES_OPERATIONS,
        "    there = jit_utils.is_starting and os.path.isfile(gen_lib)\n"
        '    if there: gen_src, pyjt_includes = "", []\n'
        + _under("    if not there:", _GENERATES_OPERATIONS),
    ),
    ("jittor/compiler.py", _WRITES_OPERATIONS, _under("    if not there:", _WRITES_OPERATIONS)),
    # half of the import, of which jfusion uses nothing
    ("jittor/__init__.py", "from . import dataset\n", _READS_DATASETS),
    # the compiler is known, and a core for the CPU needs no nvcc
    ("jittor/compiler.py", "{jit_utils.get_version(jit_utils.cc_path)}", ""),
    ("jittor/compiler.py", _FINDS_NVCC, 'nvcc_path = ""\n'),
    (
        "jittor/compiler.py",
        "addr2line_path = try_find_exe('addr2line')\n",
        "addr2line_path = try_find_exe('addr2line', False)\n",
    ),
    (
        "jittor/compiler.py",
        "ctypes.util.find_library(libname)\n",
        '"libgomp.so.1" if libname == "gomp" else ctypes.util.find_library(libname)\n',
    ),
    (
        "jittor_utils/__init__.py",
        "else:\n    cc_path = env_or_find('cc_path', 'g++', silent=True)\n",
        "else:\n    cc_path = os.environ.get('cc_path') or find_exe('g++', False, True)\n",
    ),
    (
        "jittor_utils/__init__.py",
        "\ncache_path = find_cache_path()\n",
        "\ncache_path = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))\n",
    ),
    ("jittor_utils/lock.py", '"../jittor.lock"', '"jittor.lock"'),
    # what downloads is imported when something is downloaded, and checks with whom it talks
    ("jittor_utils/__init__.py", "import urllib.request\n", ""),
    (
        "jittor_utils/__init__.py",
        "    urllib.request.urlretrieve(",
        "    import urllib.request\n    urllib.request.urlretrieve(",
    ),
    ("jittor_utils/__init__.py", _DISTRUSTS, ""),
    ("jittor_utils/misc.py", "import urllib.request\nfrom tqdm import tqdm\n", ""),
    ("jittor_utils/misc.py", "    pbar = tqdm(", "    from tqdm import tqdm\n    pbar = tqdm("),
    (
        "jittor_utils/misc.py",
        "            urllib.request.urlretrieve(",
        "            import urllib.request\n            urllib.request.urlretrieve(",
    ),
)


def make(site: Path, folder: Path) -> None:
    """Copies both packages from `site` into `folder`, anew. Raises UserError for those of another version."""
    ignored = shutil.ignore_patterns("__pycache__", "test", "notebook")
    for name in ("jittor", "jittor_utils"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(site / name, folder / name, ignore=ignored)
    for name, old, new in CHANGES:
        file = folder / name
        file.write_text(changed(file.read_text(encoding="utf-8"), old, new, file), "utf-8")
