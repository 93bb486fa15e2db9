"""Guided filter: weight maps refined by each image's own edges (Li, Kang and Hu, 2013).

"Image Fusion with Guided Filtering", IEEE Transactions on Image Processing 22(7). Each image is split
into a base and a detail layer by a mean filter. A saliency map says which image is sharper at each pixel;
the guided filter (He, Sun and Tang, 2013) makes the weights of the layers follow the image's edges.
"""
