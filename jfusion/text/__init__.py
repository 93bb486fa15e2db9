"""From paragraphs to features: the text encoders, in Jittor."""
