"""Diffusion models: noise schedules, the forward and reverse process, samplers, and the UNet.

Notation, as in the papers:

| here | paper | what it is |
|---|---|---|
| `x` | x_t | the image with noise at step t |
| `clean` | x_0, x̂_0 | the clean image, or the network's estimate of it |
| `noise` | ε | standard normal noise |
| `betas[k]` | β_k | the variance that step k adds |
| `abar[k]` | ᾱ_k | how much of the clean image is left, the product of 1 - β |
| `steps[k]` | τ_k | the original step that index k of a shortened schedule stands for; what the network sees |

DDPM: Ho et al., 2020. DDIM: Song et al., 2021. Improved DDPM: Nichol and Dhariwal, 2021.
"""
