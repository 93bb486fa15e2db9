"""Laplacian pyramid: the stronger detail of both images at each scale (Burt and Adelson, 1983).

Each image is split into details of several scales and a coarse rest (Burt and Adelson, "The Laplacian
Pyramid as a Compact Image Code", 1983). At each place the detail of the larger absolute value is kept
(Toet, "Image fusion by a ratio of low-pass pyramid", 1989; Burt and Kolczynski, 1993), and the coarse
rests are averaged.
"""
