"""Operators on Jittor Vars, a file for each family; the kernels are C++ and CUDA files in `csrc/`.

An operator checks its inputs, raises UserError for a wrong rank, channel count, size or dtype, and then calls its kernel, for float32 on the CPU (some have a CUDA form too),
or else its reference: a few lines of stock Jittor called `<operator>_reference` that say what is computed.
`tests/ops` compares the two, values and gradients.
"""
