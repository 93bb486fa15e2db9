"""Are paragraphs of one kind of scene nearer to each other than to others, by their features?

    python tools/text_semantics.py VLFDataset

Reads every TextFeature/<TASK>/<DATASET>/*.npy below the folder; a paragraph stands for the mean of its
tokens (padding left out where `encoder.json` has the texts). Prints the mean cosine similarity within
a data set, within a task, and between tasks, and how often a paragraph's nearest neighbor is of its
own task.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jfusion.text.features import Encoder, Record  # noqa: E402


def main(root: Path) -> None:
    """Prints the figures."""
    vectors, sets, encoder = [], [], None
    for folder in sorted(root.glob("TextFeature/*/*")):
        record = Record.read(folder)
        encoder = encoder or Encoder(record.encoder)
        for name in record.texts:
            text = Path(root, "Text", folder.parent.name, folder.name, f"{name}.txt").read_text()
            count = min(len(encoder.tokens(text.strip())), record.max_length)
            vector = np.load(folder / f"{name}.npy")[0, :count].mean(0)
            vectors.append(vector / np.linalg.norm(vector))
            sets.append((folder.parent.name, folder.name))
    x, tasks = np.array(vectors), np.array([t for t, _ in sets])
    names = np.array(["/".join(s) for s in sets])
    similar = x @ x.T
    other = ~np.eye(len(x), dtype=bool)
    same_set = (names[:, None] == names) & other
    same_task = (tasks[:, None] == tasks) & other & (names[:, None] != names)
    print(f"{len(x)} paragraphs of {len(set(names))} data sets, {encoder.source.name}")
    print(f"mean cosine within a data set       {similar[same_set].mean():.3f}")
    print(f"other data sets of the same task    {similar[same_task].mean():.3f}")
    print(f"between tasks                       {similar[tasks[:, None] != tasks].mean():.3f}")
    nearest = np.where(other, similar, -1).argmax(1)
    print(f"nearest neighbor is of the same task: {np.mean(tasks[nearest] == tasks):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
