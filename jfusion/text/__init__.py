"""From paragraphs to features: the text encoder in Jittor, and the command that runs it."""
