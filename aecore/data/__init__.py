"""Images as they come and as every later stage reads them: sources, decoding, preparation, the mapped reader."""
