"""YCB objects: names, symmetry and mesh templates."""
