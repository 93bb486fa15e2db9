"""CDDFuse (Zhao et al., CVPR 2023): correlation-driven decomposition into base and detail features.

One encoder for both images gives a base (attention) and a detail (invertible coupling) feature map;
two small layers fuse the sums, a decoder makes the image. Phase I reconstructs each image from its
own features, phase II trains the fusion. In an infrared pair a is the infrared, b the visible image.
"""
