"""From codes back to images: compression, samples, interpolations, edits."""
