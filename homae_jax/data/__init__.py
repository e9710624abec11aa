"""From official data set trees to batches of crops."""
