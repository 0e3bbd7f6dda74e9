"""Rapid image-classification experiments on CIFAR-10, built on fastai."""

__version__ = "0.1.0"
