"""From the images of a data set to batches on the device: transforms, loaders, worker processes, caches."""
