"""Autoencoders as points of a grid: layers, bodies, losses, the autoencoder itself, and PCA in closed form."""
