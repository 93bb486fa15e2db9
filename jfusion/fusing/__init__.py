"""What `jfusion fuse` does, step by step; `commands/fuse.py` holds its options alone.

inputs    which kind of input two paths are: images, videos, volumes
plan      the pairs, what is wrong with them, where the results go: all before the first is fused
task      which task the images are of, where nobody says it
method    the system of the task, with its weights and texts, ready to fuse
text      the features of a sentence, of files, or of the task's neutral paragraph
result    the fused image in 8 or 16 bits, and its color
judgment  the metrics of a fused image, and whether it is plausible
report    a page of all pairs and results with their metrics
images    fuses the pairs of a plan: reads ahead, fuses, writes behind
volumes   fuses two medical volumes, slice by slice
clips     fuses two clips, frame by frame; a video in chunks that can be resumed
alignment moves A onto B, by a calibration or a shift
heat      temperatures and overlays of thermal images
steady    keeps still what rests in both clips
"""
