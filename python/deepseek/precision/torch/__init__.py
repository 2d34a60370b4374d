"""Calibration with PyTorch: modules as differentiable functions, gradients, compensated rounding."""
