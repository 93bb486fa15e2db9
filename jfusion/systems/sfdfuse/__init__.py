"""SFDFuse (2025): CDDFuse with a wavelet branch and cross-attention between the features.

The two-phase recipe, the base extractor, the coupling nodes and most losses are CDDFuse's. New are the
wavelet branch, ConvFormer and pixel-shuffle blocks, difference convolutions, the interaction blocks that
replace the sums, and the attention that merges base and detail in the decoder. The network is that of
the released weights; that of the authors' first upload differs in two places, and its weights load too.
"""
