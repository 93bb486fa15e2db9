"""FILM: Image Fusion via Vision-Language Model (Zhao et al., ICML 2024).

A paragraph that describes the scene, encoded once, guides three blocks of cross-attention. Each block
has a separate branch for each of the two images, and a Restormer decoder joins them.
`tests/systems/film/test_film.py` compares it with the authors' code (commit 26a2f01).

The released weights depend on these quirks, which are kept: a token is `hidden_dim` consecutive values
of the flattened (channel, row, column) order, so it spans pixels; the token grid has one size for every
image; padding tokens of the text count.
"""
