"""Overlays, figures and mesh export, with no display and no GL."""
