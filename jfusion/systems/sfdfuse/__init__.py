"""SFDFuse (2025): CDDFuse with a wavelet branch and cross-attention between the features.

From CDDFuse come the two-phase recipe, the base extractor, the coupling nodes and most losses; new
are the wavelet branch, ConvFormer and pixel-shuffle blocks, difference convolutions, the interaction
blocks that replace the sums, and the attention that merges base and detail in the decoder. The
network is that of the published weights; the authors' first upload had another one in two places,
and its weights load too.
"""
