"""LFDT-Fusion (Information Fusion, 2024): a latent-feature-guided diffusion transformer.

Two encoders map the images to a latent at a quarter of their size; a few steps of a diffusion
transformer denoise it; a fusion head merges the two halves, guided by the transformer's last
features, and a decoder with the encoders' skips makes the image. All of it is trained end to end,
through every step. One network for each task.
"""
