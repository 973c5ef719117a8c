"""What the codes are worth: floors, clusters, a map, and one definition of every figure beside raw pixels and PCA."""
