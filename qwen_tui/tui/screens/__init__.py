"""Screens: the studio, and what opens over it."""
