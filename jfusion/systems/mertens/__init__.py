"""Exposure fusion: contrast, saturation and well-exposedness as weights (Mertens et al., 2007).

Mertens, Kautz and Van Reeth, "Exposure Fusion", Pacific Graphics 2007. Each pixel of each color image gets
a weight, and the images are blended scale by scale: the Laplacian pyramid of an image times the Gaussian
pyramid of its weights.
"""
