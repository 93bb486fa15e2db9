"""Average: the mean of both images.

The simplest method of fusion, and a yardstick: it keeps correlations with both sources and loses contrast.
"""
