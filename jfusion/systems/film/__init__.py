"""FILM: Image Fusion via Vision-Language Model (Zhao et al., ICML 2024).

A paragraph that describes the scene, encoded once, steers three blocks of cross-attention; each
block treats the two images in separate branches; a Restormer decoder joins them. Checked against
the authors' code (commit 26a2f01) by `tests/systems/film/test_film.py`.

Quirks that the released weights depend on, and which are kept: a token is `hidden_dim` consecutive
values of the flattened (channel, row, column) order, so it spans pixels; the token grid is one
size for every image; padding tokens of the text count.
"""
