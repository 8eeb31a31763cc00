"""AR-Diffusion (CVPR 2025) in PyTorch Lightning: asynchronous video generation."""

__version__ = "0.1.0"
