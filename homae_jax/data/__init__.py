"""From official data set trees to batches of crops."""

import cv2

cv2.setNumThreads(0)  # the loader's threads are the parallelism
