"""Diff-FCCF (2025): full-colour medical fusion, registration and denoising in one diffusion network.

A structural image (gray) and a functional one (in colour) are fused plane by plane, Y, Cr and Cb, each
by the same network against the same structure. The published code is incomplete; what is ours is named
in the docstrings, and docs/fccf.md lists it.
"""
