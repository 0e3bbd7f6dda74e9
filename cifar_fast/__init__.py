"""Rapid image-classification experiments on CIFAR-10, built on fastai."""

__version__ = "0.2.0"
