"""Smaller checkpoints: fewer rows in the tables of the vocabulary."""

from .vocabulary_trimming import Sizes, Trimming, trim_vocabulary

__all__ = ["Sizes", "Trimming", "trim_vocabulary"]
