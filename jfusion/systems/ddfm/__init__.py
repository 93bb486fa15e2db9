"""DDFM (Zhao et al., ICCV 2023): fusion by an unconditional diffusion model, without training.

The reverse process of a model of photographs; at each step the luminance of the estimate of x_0 is
corrected by one EM iteration against the two sources. The network is OpenAI's 256x256 unconditional
UNet, or a small one that `jfusion train ddfm --variant small` trains on a folder of images. What the
released code does, and the paper does not say, is the default: docs/ddfm.md.
"""
