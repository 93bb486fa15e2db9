"""Trains a system: `python train.py --data VLFDataset_h5/MSRS_train.h5` (FILM), `--help` for more."""

import sys

from jfusion.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
