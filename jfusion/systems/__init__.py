"""The published systems, one file each: configuration, network, loss, training step, inference."""
