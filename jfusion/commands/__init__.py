"""CUDA for Jittor: the toolkit on this machine, and what its sources need for it. Needs no Jittor."""
