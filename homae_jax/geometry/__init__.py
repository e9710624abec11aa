"""Rotations, cameras, alignment and signed distance: maths with no project imports."""
