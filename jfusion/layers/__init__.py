"""Building blocks that systems share, one file per family.

Each family has a plain form, a few lines of stock Jittor that say what is computed, and where it
pays a CPU kernel. The public function picks the kernel for float32 on a CPU and the plain form
otherwise; `tests/layers` holds the two against each other, values and gradients.
"""
