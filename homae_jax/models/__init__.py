"""The network of HOMAE, one file per block of the paper's Fig. 2."""
