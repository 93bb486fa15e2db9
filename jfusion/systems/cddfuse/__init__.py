"""CDDFuse (Zhao et al., CVPR 2023): correlation-driven decomposition into base and detail features.

One encoder for both images extracts base features (by attention) and detail features (by invertible
coupling). Two small layers fuse the sums of the two images' features, and a decoder makes the image.
Phase I reconstructs each image from its own features; phase II trains the fusion. In an infrared pair,
a is the infrared and b the visible image.
"""
