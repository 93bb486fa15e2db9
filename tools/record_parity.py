"""Records the authors' side of `jfusion parity`, for machines without PyTorch.

    python tools/record_parity.py film --reference IF-FILM --python torchenv/bin/python

writes jfusion/parity/recorded/film.npz: what the authors' code gives for the drawn weights and the drawn
batch, of which few values are kept of each layer and gradient. Run it on an idle machine: it has times too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from pathlib import Path

import numpy as np

from jfusion.files import replacing
from jfusion.parity import session
from jfusion.parity.cases import CASES


def main() -> None:
    """Records one system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=CASES)
    parser.add_argument("--reference", required=True, help="a checkout of the authors' repository")
    parser.add_argument("--python", required=True, help="a Python with torch and numpy")
    parser.add_argument("--steps", type=int, default=session.STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=session.RECORDED)
    options = parser.parse_args()
    setup = session.Setup(
        options.system,
        steps=options.steps,
        threads=options.threads,
        reference=options.reference,
        python=options.python,
    )
    session.check_reference(setup)
    prepared = session.Prepared(setup, CASES[options.system])
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "request.npz"), **prepared.request())
        answer = session.run_reference(setup, folder, len(prepared.pairs)).recorded()
    record = {**answer.record, "recorded": datetime.date.today().isoformat()}
    path = options.out / f"{options.system}.npz"
    with replacing(path, "the recording", "checkpoint") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, record=json.dumps(record), **answer.arrays)
    print(f"{path}: {path.stat().st_size} bytes, losses {answer.record['stages']}")


if __name__ == "__main__":
    main()
