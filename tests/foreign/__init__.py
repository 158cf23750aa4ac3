"""Comparisons of package layers for another architecture, made in two ways."""
