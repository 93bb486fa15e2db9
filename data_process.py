"""Makes an H5 file: `python data_process.py --task IVF --dataset MSRS --split train`."""

import sys

from jfusion.__main__ import start

sys.exit(start(["preprocess", *sys.argv[1:]]))
