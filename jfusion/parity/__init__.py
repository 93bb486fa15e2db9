"""Is the port the original? A system next to the authors' code: names, layers, losses, gradients, speed.

`session.py` runs both sides, each in a process of its own, on the same weights and batches; `cases.py` has
what differs between systems here, `reference/` the same for the authors' code; `compare.py` compares the two
answers, and `report.py` writes them down. `recorded/` has answers of the authors' code for machines without
PyTorch.
"""
