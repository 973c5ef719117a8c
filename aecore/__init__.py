"""aecore: from a pile of images to a versioned visual search, with an autoencoder trained on those very images."""
