"""Diff-FCCF (2025): full-color medical fusion, registration and denoising in one diffusion network.

A structural image (gray) and a functional one (in color) are fused channel by channel, Y, Cr and Cb,
each by the same network with the same structural image. The published code is incomplete; docstrings
say what is ours, and docs/fccf.md lists it.
"""
