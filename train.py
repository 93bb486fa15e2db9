"""Trains a system: `python train.py --data VLFDataset_h5/MSRS_train.h5` (FILM), `--help` for more."""

import sys

from jfusion.__main__ import start

sys.exit(start(["train", *sys.argv[1:]]))
