"""The authors' side, which runs in their Python; see run.py."""
