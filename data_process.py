"""Makes an H5 file: `python data_process.py --task IVF --dataset MSRS --split train`."""

import sys

from jfusion.cli import main

sys.exit(main(["preprocess", *sys.argv[1:]]))
