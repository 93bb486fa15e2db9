"""Maximum: the brighter of both images at each pixel.

A yardstick for infrared and visible pairs, where hot things are bright.
"""
