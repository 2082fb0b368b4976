"""Noiseweave: distributed batch processing of images with diffusion models."""

__version__ = "0.1.0"
