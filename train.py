"""Trains a system: `python train.py --data VLFDataset_h5/MSRS_train.h5` (FILM), `--help` for more."""

import sys

from jfusion.cli import main

arguments = sys.argv[1:]
if not arguments or (arguments[0].startswith("-") and "--resume" not in arguments):
    arguments = ["film", *arguments]
sys.exit(main(["train", *arguments]))
