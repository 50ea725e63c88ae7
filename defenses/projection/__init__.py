"""Projection onto a manifold before a classifier (Jalal et al. 2017, *The Robust Manifold
Defense*): onto a generator's range, or onto what an untrained network draws first.
"""
