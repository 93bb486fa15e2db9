"""Building blocks that systems share, one file per family.

Each family has a plain form, a few lines of stock Jittor that say what is computed, and where it
pays a kernel for the CPU, some with a CUDA form too. The public function picks the kernel for float32
and the plain form otherwise; `tests/layers` holds the two against each other, values and gradients.
"""
