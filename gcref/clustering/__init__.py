"""Partitions of a data set that make stratified gradients less noisy: weighted gradient clustering."""

from gcref.clustering.exact import ExactClustering
from gcref.clustering.low_rank import GradientClustering
from gcref.clustering.sketched import SketchedClustering
from gcref.clustering.sketches import Sketches

__all__ = ["ExactClustering", "GradientClustering", "SketchedClustering", "Sketches"]
